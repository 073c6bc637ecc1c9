"""What is in a release: a CycloneDX 1.6 document of the libraries that requirements.lock pins for the three extras.

The same lock gives the same document, to the byte. What the container image has of Debian is not in it: that is in the
image itself, in dpkg's own list, /var/lib/dpkg/status.
"""

import json
import time
import uuid
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from deploy.release.pins import EXTRAS, pins, requirements

NAMESPACE = uuid.UUID("6f0a4a3e-0d0b-5d0c-9a56-2f1d0c7b8e11")
"""Serial numbers of our documents are made in it (RFC 9562, version 5)."""


def document(lock: str, project: str, version: str, moment: int) -> bytes:
    """The document for `version` of Bootferry, dated `moment` (seconds since 1970). Raises Failure."""
    extras = {extra: requirements(lock, project, extra) for extra in EXTRAS}
    everything = set().union(*extras.values())
    pinned = {name: pin for name, pin in pins(lock).items() if name in everything}
    components, dependencies = [], []
    for name, pin in sorted(pinned.items()):
        used_by = [extra for extra in EXTRAS if name in extras[extra]]
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": _reference(name, pin.version),
            "name": name,
            "version": pin.version,
            "purl": _reference(name, pin.version),
            "properties": [{"name": "bootferry:extra", "value": extra} for extra in used_by]
            + [{"name": "bootferry:sha256", "value": digest} for digest in pin.sha256],
        }
        if pin.marker:
            component["scope"] = "optional"
            component["properties"].append({"name": "bootferry:marker", "value": pin.marker})
        if licence := _licence(name):
            component["licenses"] = [{"license": {"name": licence}}]
        components.append(component)
        needed = sorted(other for other in pinned if name in pinned[other].needed_by)
        dependencies.append(
            {
                "ref": _reference(name, pin.version),
                "dependsOn": [_reference(other, pinned[other].version) for other in needed],
            }
        )
    ours = f"pkg:pypi/bootferry@{version}"
    found: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)),
            "component": {
                "type": "application",
                "bom-ref": ours,
                "name": "bootferry",
                "version": version,
                "purl": ours,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
        },
        "components": components,
        "dependencies": dependencies,
    }
    content = json.dumps(found, sort_keys=True)
    found["serialNumber"] = f"urn:uuid:{uuid.uuid5(NAMESPACE, content)}"
    return json.dumps(found, indent=1, sort_keys=True).encode() + b"\n"


def _reference(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


def _licence(name: str) -> str:
    """What the package says of its licence, in a line; "" where it says nothing, or is not installed here."""
    try:
        said = metadata(name)
    except PackageNotFoundError:
        return ""
    classifiers = [line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or () if "License :: OSI" in line]
    texts = [*(said.get_all("License-Expression") or ()), "; ".join(classifiers), *(said.get_all("License") or ())]
    return next((text.strip().splitlines()[0][:200] for text in texts if text.strip()), "")
