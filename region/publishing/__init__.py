"""Publishing: what racks are told to hold, signed by the region's key."""
