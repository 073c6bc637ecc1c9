"""What an operator does, one function an act: it guards, changes, asks for the import and writes it down.

Every door (the HTTP API, the page, the command line, the region's own command) calls these. An act takes a connection,
who acts, what is wished and the time, and answers the outcome; it never commits: what it did is one transaction of the
caller. A refusal is an error of `shared.errors`, and nothing of the act has happened then.
"""
