"""What an upstream says, believed only as far as its signature goes: signed bytes to text, text to typed values."""
