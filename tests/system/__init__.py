"""Installed for real: Debian under its own systemd, in containers, with the packages that `make deb` builds.

base        the root file system that all machines begin with: made once, kept in .cache
machine     a machine: an overlay on the base, booted by systemd-nspawn; and the network between machines
site        a region, two racks and a sample mirror, installed by the blocks of docs/install.md

`make systemtest` runs this, as root; `make test` does not. Nothing reaches another machine: the network is a namespace
of its own, and packages are fetched before.
"""
