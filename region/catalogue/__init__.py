"""The catalogue: what sources offer and which of it is wanted, stored and held.

Each noun is a module of plain functions that take a connection and never commit: sources, what each is believed by
(`trust`) and how old its documents may be (`freshness`), products and their versions, selections and what they come to
(`wanted`), `targets` (what wins), pins, offers, images, bootloaders, files. `facts` are the plain values that decisions
take. Who changes what is held is in `region.publishing`, who decides about it in `region.importing`.
"""
