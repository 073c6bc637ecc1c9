"""What only the region's own machine can do: the commands of `bootferry-region` on its database, keys and files.

`running` builds a region for a command; `backups` and `keys` are commands by their noun; `setup` makes what a machine
lacks, and `doctor` says what is wrong. The others, and how all are called, are in `region/__main__.py`.
"""
