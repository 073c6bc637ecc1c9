"""Publishing: what racks are told to hold, signed by the region's key.

`held` is the one way to hold and to withdraw, `manifest` what is said of it and signed, `since` the serial since which
it is said of each image, `memory` the current manifest in every process, `successions` which key of the region follows
which.
"""
