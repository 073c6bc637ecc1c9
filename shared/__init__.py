"""What region and rack agree on."""

__version__ = "0.1.0"
