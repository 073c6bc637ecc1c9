"""The edge: what answers before FastAPI, and how bytes leave this process.

`house` counts the connections of strangers, `rates` how often something may happen, `admission` finds out who asks and
reads the body, `surroundings` is what happens around every request, `server` is the HTTP server and sends files by
descriptor, `secure` puts it inside TLS, `content` answers for one stored file, `problem` is the answer that says what
went wrong.
"""
