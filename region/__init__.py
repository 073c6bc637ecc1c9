"""The region: the catalogue, the imports and the API operators and racks use."""
