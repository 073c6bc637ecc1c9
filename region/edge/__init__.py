"""The edge: what answers before FastAPI does, and how bytes leave this process.

`server` is the HTTP server and sends files by descriptor, `content` answers for one stored file, `memory` is what a
process answers racks from, `surroundings` is what happens around every request.
"""
