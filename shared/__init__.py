"""What region and rack agree on."""

__version__ = "0.2.0"
