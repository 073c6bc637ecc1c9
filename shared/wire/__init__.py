"""The messages between a region and its racks, and who signed them."""
