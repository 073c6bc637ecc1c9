"""A sample upstream: a real signed simplestreams mirror, for the tests as an object and for `make run` from the shell.

It simulates what Bootferry does not own, so it imports nothing of Bootferry's. One noun a file: `key` signs, `content`
makes the bytes of a file, `products` says what is offered, `mirror` is the tree on disk, `faults` are ways to misbehave
and `server` serves the tree, well or badly.

    mirror = Mirror.create(tmp_path, now=datetime(2026, 7, 2, tzinfo=UTC), sizes=TINY)
    async with serve(mirror) as server:
        server.misbehave("*/squashfs", Cut(after=1000), times=1)
        mirror.publish(release="noble", arch="amd64")
"""
