"""The fleet: the racks a region knows, and what they report."""
