"""Backup: a region in one file, and back.

`bundle` is the file, and what makes it believable; `save` writes one from a database, keys and configuration; `restore`
puts one into a database and a directory of keys, and begins a new epoch. Stored files are in none: a region finds those
that are on its disk, and fetches the others again.
"""
