"""What an operator does, one function an act: it decides, guards, changes, asks for the import and writes it down.

Every door (the HTTP API, the page, the command line, the region's own command) calls these. An act takes a connection
and never commits: what it did is one transaction of the caller.
"""
