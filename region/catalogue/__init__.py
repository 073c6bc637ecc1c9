"""The catalogue: what sources offer and which of it is wanted, stored and held.

Each noun is a module of plain functions that take a connection and never commit: sources, products and their versions,
selections, pins, offers, images, bootloaders, files. Who changes what is held is in `region.publishing`, who decides
about it in `region.importing`.
"""
