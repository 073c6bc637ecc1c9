"""What each address takes before anything of it is looked at; see `region.edge.admission`.

Below /api/v1 somebody must be known, but at the few addresses of `_OPEN`. A route that is not named here takes 64 KiB
from whoever is known, so that a new one is closed and small until somebody says otherwise.
"""

import re

from region.edge.admission import Door
from shared.wire.report import MAX_REPORT_BYTES

_API = "/api/v1/"
_OPEN: dict[tuple[str, str], Door] = {
    ("GET", "/api/v1/openapi.json"): Door(open=True),
    ("GET", "/api/v1/region"): Door(open=True),
    ("GET", "/api/v1/region/keys"): Door(open=True),
    ("POST", "/api/v1/session"): Door(open=True, body_bytes=4 * 1024),
    ("DELETE", "/api/v1/session"): Door(open=True),
    ("POST", "/api/v1/racks/enrol"): Door(open=True, body_bytes=16 * 1024),
}
_PAGES = Door(open=True)
_CLOSED = Door()
_REPORT = Door(body_bytes=MAX_REPORT_BYTES, body_s=60.0)
_REPORTED = re.compile(r"/api/v1/racks/[^/]+/report")


def door(method: str, path: str) -> Door:
    """What a request with this method and path must show, and may bring."""
    if found := _OPEN.get((method, path)):
        return found
    if path == "/metrics":
        return _CLOSED
    if not path.startswith(_API):
        return _PAGES
    return _REPORT if method == "PUT" and _REPORTED.fullmatch(path) else _CLOSED
