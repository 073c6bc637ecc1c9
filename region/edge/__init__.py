"""The edge: how bytes leave this process, and what happens around every request before FastAPI sees it.

`server` is the HTTP server and sends files by descriptor, `content` answers for one stored file, `problem` is the
answer that says what went wrong, `surroundings` is what happens around every request.
"""
