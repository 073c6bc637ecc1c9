"""The small mirror, its server and a region that knows it, as the tests of imports have them."""

from tests.db.conftest import bench, mirror, server, small

__all__ = ["bench", "mirror", "server", "small"]
