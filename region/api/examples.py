"""What the OpenAPI document shows and FastAPI cannot know: an example of every shape, and a word on every operation.

Examples are by the shape's name, so that one serves everywhere; a test checks each by its schema. No example holds a
token: whoever scans for secrets must find none here.
"""

from collections.abc import Mapping
from typing import Any

_SHA256 = "9f2c1d8a7b6e5f403122334455667788990a0b0c0d0e0f1021324354657687a9"
_RACK_ID = "4be1c5a9d0f2473e8c6a1b2d3e4f5061"
_SIGNER = "4A3CE3CD565D7EB5C810E2B97FF3F408476CF100"
_IMAGE = {"os": "ubuntu", "release": "noble", "arch": "amd64"}
_NOON = "2026-07-05T12:00:00Z"
_EVENING = "2026-07-05T18:30:00Z"
_PLAN = {
    "add": ["ubuntu:noble:amd64"],
    "remove": [],
    "moved": [],
    "unavailable": [],
    "kernels_add": {"ubuntu:noble:amd64": ["ga-24.04"]},
    "kernels_remove": {},
    "left_out_bytes": 228_000_000,
    "means": {"ubuntu:24.04:amd64": ["ubuntu:noble:amd64"]},
    "bootloaders_add": ["bootloader:uefi:amd64"],
    "bootloaders_change": [],
    "bootloaders_withdraw": [],
    "warnings": [],
    "fetch_bytes": 612_000_000,
    "free_bytes": 480_000_000_000,
    "free_bytes_after": 479_388_000_000,
    "tightest_rack": {"name": "rack-1", "free_bytes": 90_000_000_000, "free_bytes_after": 89_388_000_000},
    "import_id": 42,
}
_PIN_PLAN = {
    "bootloaders_add": [],
    "bootloaders_change": ["bootloader:uefi:amd64"],
    "bootloaders_withdraw": [],
    "warnings": [],
    "fetch_bytes": 614_400_000,
    "moved": [],
    "import_id": 42,
}
_IMPORT = {
    "id": 42,
    "trigger": "selection",
    "requested_by": "night shift",
    "requested_at": _NOON,
    "scope": ["ubuntu:noble:amd64"],
    "source_id": None,
    "stopped": [],
    "state": "running",
    "started_at": _NOON,
    "finished_at": None,
    "cancel_requested": False,
    "bytes_total": 612_000_000,
    "bytes_done": 204_000_000,
    "error_code": "",
    "error": "",
    "retry_at": None,
}
_OFFER = {
    **_IMAGE,
    "title": "24.04 LTS",
    "release_version": "24.04",
    "version": "20260705",
    "lts": True,
    "support_eol": "2029-05-31",
    "kernels": ["ga-24.04", "hwe-24.04"],
    "size_bytes": 612_000_000,
    "source_id": 1,
}
_SUCCESSION = {
    "key": "kV9pT3nq2m0c8s7d5f4g1h6j9k2l3z4x5c6v7b8n9m0",
    "envelope": '{"payloadType":"application/vnd.bootferry.succession+json","payload":"…","signatures":[…]}',
}
_RACK = {
    "id": _RACK_ID,
    "name": "rack-1",
    "status": "outdated",
    "fingerprint": _SHA256,
    "enrolled_at": _NOON,
    "last_seen_at": _EVENING,
    "address": "10.2.0.2:5248",
    "version": "1.0.0",
    "knows": {"epoch": 1_784_000_000, "serial": 17},
    "images_pending": 1,
    "images_total": 9,
    "bytes_left": 0,
    "bytes_free": 90_000_000_000,
    "last_error": "",
    "last_error_code": "",
}
_SOURCE = {
    "id": 2,
    "name": "Our mirror",
    "url": "https://mirror.example.org/maas/",
    "unsigned": False,
    "key_ids": [_SIGNER],
    "keyring_path": None,
    "keyring_name": "ubuntu-cloudimage",
    "enabled": True,
    "current": True,
    "priority": 20,
    "proxy": None,
    "ca_bundle": None,
    "last_read_at": _EVENING,
    "error_code": "",
    "error": "",
    "skipped": [],
    "stale_after_days": 30,
    "documents_updated_at": _NOON,
    "warning_code": "",
    "warning": "",
    "older_accepted_until": None,
}
_UNVOUCHED = {
    "image": "ubuntu:noble:amd64",
    "place": "ubuntu/amd64/ga-24.04/noble/stable",
    "version": "20260705",
    "source": "Our mirror",
    "vouched_by": [_SIGNER],
    "held_at": _NOON,
}
_EFFECT = {
    "bootloaders_add": [],
    "bootloaders_change": ["bootloader:uefi:amd64"],
    "bootloaders_withdraw": [],
    "warnings": [],
    "fetch_bytes": 2_400_000,
}
_LAPSE = {"lapses": ["ubuntu:noble:amd64"], "held": [_UNVOUCHED], "moved": [], **_EFFECT}

SHAPES: Mapping[str, Any] = {
    "ConfirmedShown": {"epoch": 1_784_000_000, "serial": 18},
    "ActivityShown": {
        "id": 310,
        "at": _NOON,
        "who": "night shift",
        "address": "10.1.0.7",
        "subject": "selection",
        "action": "selection.changed",
        "sentence": "Selected ubuntu:noble:amd64.",
        "before": {"images": []},
        "after": {"images": ["ubuntu:noble:amd64"]},
    },
    "BootloaderShown": {
        "os": "grub-efi-signed",
        "type": "uefi",
        "arch": "amd64",
        "version": "20260701.0",
        "held": True,
        "size_bytes": 3_400_000,
        "racks_synced": 3,
        "racks_total": 3,
    },
    "ImageShown": {
        **_IMAGE,
        "id": "ubuntu:noble:amd64",
        "title": "24.04 LTS",
        "source_id": 1,
        "selected": True,
        "status": "synced",
        "progress": 100,
        "version": "20260705",
        "pinned_version": None,
        "held_version": "20260705",
        "size_bytes": 612_000_000,
        "bytes_done": 612_000_000,
        "vouched": True,
        "vouched_by": [_SIGNER],
        "racks_synced": 3,
        "racks_live": 3,
        "racks_total": 3,
        "support_eol": "2029-05-31",
        "updated_at": _NOON,
        "error_code": "",
        "error": "",
    },
    "ImportDetail": {
        **_IMPORT,
        "images": {
            "ubuntu:noble:amd64": {"bytes_total": 612_000_000, "bytes_done": 204_000_000, "code": "", "error": ""}
        },
    },
    "ImportFields": {"images": ["ubuntu:noble:amd64"]},
    "ImportShown": _IMPORT,
    "LapseShown": _LAPSE,
    "OfferShown": _OFFER,
    "OnRackShown": {
        "rack_id": _RACK_ID,
        "name": "rack-1",
        "live": True,
        "state": "pending",
        "shown_version": "20260701",
        "code": "connection_lost",
    },
    "OperatorTokenFields": {"name": "night shift", "role": "operator", "expires_at": "2027-01-01T00:00:00Z"},
    "OperatorTokenMade": {"id": "5d1f0c2b9a7e", "token": "the token, shown this once"},
    "OperatorTokenShown": {
        "id": "5d1f0c2b9a7e",
        "name": "night shift",
        "role": "operator",
        "created_at": _NOON,
        "expires_at": "2027-01-01T00:00:00Z",
        "last_used_at": _EVENING,
    },
    "PinChangedShown": _PIN_PLAN,
    "PinFields": {"version": "20260705"},
    "PlanShown": _PLAN,
    "PollAsked": {"racks_live": 3},
    "Probe": {
        "url": "https://mirror.example.org/maas/",
        "signed_by": [_SIGNER],
        "images": [{**_OFFER, "source_id": None}],
        "skipped": ["com.example:odd: It is not a product file of images."],
    },
    "RackDetail": {
        **_RACK,
        "pending": [
            {"image": "ubuntu:noble:amd64", "state": "pending", "shown_version": "20260701", "code": "connection_lost"}
        ],
    },
    "RackShown": _RACK,
    "RegionShown": {
        "name": "region-1",
        "version": "1.0.0",
        "public_key": "hG0Xb2YVQ3m5b1q8m6d4J2k0s9w7u5t3r1p_n-l8j6g",
        "fingerprint": _SHA256,
        "tls": True,
    },
    "RegionKeysShown": {
        "public_key": "hG0Xb2YVQ3m5b1q8m6d4J2k0s9w7u5t3r1p_n-l8j6g",
        "fingerprint": _SHA256,
        "successions": [_SUCCESSION],
    },
    "SuccessionShown": _SUCCESSION,
    "SelectionFields": _IMAGE,
    "SelectionShown": {
        **_IMAGE,
        "kernels": ["ga"],
        "labels": None,
        "id": 5,
        "source_id": None,
        "images": ["ubuntu:noble:amd64"],
        "created_at": _NOON,
    },
    "SessionFields": {"token": "your token"},
    "SessionShown": {"name": "night shift", "role": "operator", "expires_at": _EVENING},
    "SettingsFields": {"proxy": "http://proxy.example.org:3128", "retention_days": 400},
    "SettingsChangedShown": {
        "proxy": None,
        "retention_days": 400,
        "bootloader_source_id": 2,
        **_EFFECT,
        "import_id": 42,
    },
    "SettingsShown": {"proxy": "http://proxy.example.org:3128", "retention_days": 400, "bootloader_source_id": 1},
    "SourceChange": {"keyring_path": "/usr/share/keyrings/our-mirror.gpg", "priority": 30},
    "SourceChangedShown": {
        **_SOURCE,
        "keyring_path": "/usr/share/keyrings/our-mirror.gpg",
        "keyring_name": None,
        "key_ids": ["8AA2D14E4F0E7B8E0E1F5D53C1F6A7B90D3E2C41"],
        "current": False,
        "priority": 30,
        **_LAPSE,
    },
    "SourceFields": {
        "name": "Our mirror",
        "url": "https://mirror.example.org/maas/",
        "keyring_name": "ubuntu-cloudimage",
    },
    "SourceShown": _SOURCE,
    "StorageShown": {
        "free_bytes": 480_000_000_000,
        "total_bytes": 1_000_000_000_000,
        "held_bytes": 12_600_000_000,
        "files": 63,
    },
    "SyncFields": {"enabled": True, "interval_seconds": 3600},
    "SyncShown": {
        "enabled": True,
        "interval_seconds": 3600,
        "last_run_at": _NOON,
        "next_run_at": "2026-07-05T13:00:00Z",
    },
    "EnrolmentTokenShown": {
        "id": "71857d1d2d3d3e24aa926a4c677ba6ef9ffd01c7cadd1031195ba56cfeb9eb75",
        "made_by": "night shift",
        "created_at": _NOON,
        "expires_at": "2026-07-06T12:00:00Z",
        "uses_left": 1,
    },
    "TokenFields": {"lifetime_seconds": 86_400, "uses": 1},
    "TokenShown": {
        "id": "71857d1d2d3d3e24aa926a4c677ba6ef9ffd01c7cadd1031195ba56cfeb9eb75",
        "token": "the token, shown this once",
        "expires_at": "2026-07-06T12:00:00Z",
        "command": "bootferry-rack enrol --region https://region.example.org:5240",
    },
    "UnvouchedShown": _UNVOUCHED,
    "VersionShown": {"name": "20260705", "offered": True, "held": True, "size_bytes": 612_000_000},
    "WholeSelection": {"items": [{**_IMAGE, "source_id": 1}, {**_IMAGE, "release": "jammy"}]},
}

ANSWERS: Mapping[tuple[str, str], Any] = {
    ("PlanShown", "200"): {**_PLAN, "import_id": None},
    ("PinChangedShown", "200"): {**_PIN_PLAN, "import_id": None},
}
"""Shapes that look otherwise in answers with one status: (shape, status)."""

PARAMETERS: Mapping[str, Any] = {
    "image_id": "ubuntu:noble:amd64",
    "import_id": 42,
    "rack_id": _RACK_ID,
    "selection_id": 5,
    "sha256": _SHA256,
    "source_id": 1,
    "token_id": "5d1f0c2b9a7e",
    "enrolment_token_id": "71857d1d2d3d3e24aa926a4c677ba6ef9ffd01c7cadd1031195ba56cfeb9eb75",
    "if-match": '"selection-7"',
    "dry_run": True,
    "held": "keep",
    "subject": "selection",
    "limit": 50,
}

_ENVELOPE = {
    "payload": "eyJmb3JtYXQiOiAiYm9vdGZlcnJ5LW1hbmlmZXN0OjEifQ==",
    "payloadType": "application/vnd.bootferry.manifest+json",
    "signatures": [{"keyid": _SHA256, "sig": "c2lnbmF0dXJl"}],
}

CORRECTION = (
    '{"payloadType":"application/vnd.bootferry.correction+json","payload":"eyJub3ciOjE3ODI5MDcyMDAuNSwic2'
    'VxdWVuY2UiOjE3ODkwMDAwMDAwMDAsIm5vbmNlIjoiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWIifQ==","signatu'
    'res":[{"keyid":"c0742a797bd5374378f26a371f35e61b32c0d0cc8fc9b76f5c3ee1949a61555a","sig":"nlA4jbaNT+g'
    '4OSrtSd8Ra28LBWk32DIs3RbOdqpdplSxA8ZOoHmVgVueWn/U+S49Ri3h7dWlA5KpF33SejWiDw=="}]}'
)

BODIES: Mapping[str, Any] = {
    "application/octet-stream": "the bytes of the file",
    "application/vnd.dsse.envelope.v1+json": _ENVELOPE,
    "text/event-stream": "event: images\ndata: {}\n\n",
    "text/plain": "# HELP bootferry_racks Racks enrolled.\n# TYPE bootferry_racks gauge\nbootferry_racks 3.0\n",
}
"""What bodies that are no shape look like, by media type."""

REPORT = {
    "format": "bootferry-report:2",
    "sequence": 1_783_252_800,
    "version": "1.0.0",
    "address": "10.2.0.2:5248",
    "knows": {"epoch": 1_784_000_000, "serial": 17, "sha256": _SHA256},
    "pending": [],
    "bytes_left": 0,
    "bytes_free": 90_000_000_000,
    "error": {"code": "", "sentence": ""},
}
"""A rack's report; `shared.wire.report` reads it."""

NEXT_KEY = {"format": "bootferry-rack-key:1", "public_key": "gyClGXfYw4yopJJ8Zw31gh5El2GUXhXp77JqFQnSMOo"}
"""A rack's next key; `shared.wire.rack_key` reads it."""

PROBES: Mapping[str, Any] = {"livez": {"status": "alive"}, "readyz": {"status": "ready"}}

OPERATIONS: Mapping[str, str] = {
    "list_images": "All images that are selected or held, by id, with where each of them is. Pages by cursor.",
    "get_image": "One image: its versions in short, its progress on the region, and how many racks serve it.",
    "remove_image": (
        "Takes the image out of the selection and withdraws what is held of it with the next import. `If-Match` takes"
        " the ETag of the image, or that of the selection. An image that a rule means is refused: 409."
    ),
    "list_versions": "The versions of the image that its source offers or the region holds, the newest first.",
    "list_image_racks": "Each rack, by name, and how the image is there. Pages by cursor.",
    "pin_image": "Keeps the image at this version, whatever its source offers later, until it is unpinned.",
    "unpin_image": "Lets the image follow its source again: the next import brings the newest version.",
    "list_bootloaders": "Bootloaders come with every import, without being selected.",
    "list_available": "Every image that a source offers, selected or not: what there is to select from.",
    "list_selections": (
        "What is selected, as it was said, and the images that it means now. Send the ETag as `If-Match` with a change:"
        " it names this state."
    ),
    "replace_selection": "Selects exactly these images in one step, all or nothing; the others are unselected.",
    "add_selection": (
        "Selects one more image, or what a rule means, and starts the import that brings it. What is selected already"
        " from the same source gets these kernels and labels."
    ),
    "remove_selection": (
        "Unselects an image, or what a rule means; what is held of it is withdrawn with the import this starts."
    ),
    "list_sources": "Where images come from. A source with a greater priority wins an image that several offer.",
    "add_source": "Adds a source and reads it at once. Try it with a probe first: a probe saves nothing.",
    "probe_source": "Reads the mirror as an import would; answers what it offers, or why it cannot be used.",
    "get_source": "The source, and how its last reading went.",
    "change_source": (
        "Changes the fields that are given and reads the source anew. Another URL, keyring or mode is another trust:"
        " what nobody vouches for after it lapses, and `held` says what becomes of what is held of that. A signed"
        " source becomes unsigned with `confirm_unsigned` only."
    ),
    "read_source": (
        "Reads what the source offers at the moment, as every import does first. Nothing is fetched, nothing withdrawn;"
        " an import that waits already takes it in."
    ),
    "accept_older": (
        "The way out when a mirror went back on purpose, or when a document from the future was accepted: the next"
        " reading, within a day, takes the documents that are there, whatever their age, and uses this up. Signatures"
        " count as always. Answers 202: `Location` is the import that reads the source."
    ),
    "remove_source": (
        "Removes a source: it offers nothing after this, and selections that named it mean whichever source wins."
        " `held` says what becomes of what is held of it."
    ),
    "list_unvouched": "Held versions, with their signers, that no key of their source vouches for. They stay served.",
    "withdraw_unvouched": (
        "Withdraws all of them in one step, and answers what that was. Machines lose them with their rack's next poll."
    ),
    "start_import": "Brings the named images, or all that are selected, up to date now. Without a body: all.",
    "list_imports": "The runs that bring images in, the newest first. Pages by cursor.",
    "get_import": "One run, and how far it is with each image.",
    "cancel_import_image": (
        "Fetches this image no further, within seconds; the others of the run go on. What has arrived is kept, and the"
        " next sync goes on with it."
    ),
    "cancel_import": "Stops the run within seconds. What has arrived is kept; the next run goes on from there.",
    "get_sync": "Whether the region reads its sources every hour, and when it does so next.",
    "change_sync": "Switches the hourly sync on or off, or sets how often it runs. Imports by hand go on either way.",
    "list_racks": "The racks enrolled here, by name, each as its last report says. Pages by cursor.",
    "get_rack": "One rack, and the images of the current manifest that it lacks.",
    "remove_rack": "Removes the rack: its requests are refused at once, and its key for ever. It goes on serving.",
    "create_enrolment_token": "Makes a token that lets a rack enrol. It is shown this once, with the command to type.",
    "list_enrolment_tokens": "The tokens that let racks in, without their secrets. Pages by cursor.",
    "get_enrolment_token": "One token, without its secret.",
    "remove_enrolment_token": "Revokes the token: it lets no rack in any longer. Racks that used it stay.",
    "enrol_rack": "Takes a new rack in: its request is signed by its key and proves that it knows a token.",
    "report": "Takes in what a rack says it lacks of the manifest it knows.",
    "change_rack_key": "Knows the rack by another key from then on; the present one signs this request, and is the last"
    " time taken.",
    "get_session": "Who asks, with which role, and until when.",
    "log_in": "Turns an operator's token into a session: a cookie that scripts of a page cannot read.",
    "log_out": "Ends the session whose cookie is sent.",
    "list_operator_tokens": "The tokens there are, without their secrets.",
    "get_operator_token": "One token, without its secret.",
    "create_operator_token": "Makes a token with a role. It is shown this once.",
    "remove_operator_token": "Removes a token: it is refused at once. The last administrator's cannot be removed.",
    "list_activity": "Who changed what and when, from where, the newest first. Pages by cursor.",
    "get_settings": "What holds for the whole region.",
    "change_settings": "Changes what holds for the whole region.",
    "get_storage": "The room that images take on the region's disk, and the room that is left.",
    "events": "Server-sent events: each names what changed; the first ones name everything there is.",
    "get_manifest": "The signed list of what racks are to serve, as a DSSE envelope. Send `If-None-Match`.",
    "manifest_events": (
        "Server-sent events: one whenever a manifest was published, with its epoch and serial, within how many seconds"
        " a rack is to ask for it, and whether it is the last one of an import."
    ),
    "poll_rack": (
        "Passes an operator's wish on to the rack, which polls within seconds, four times in a row and once a minute"
        " after that. One that is not live polls when it is back."
    ),
    "poll_racks": (
        "Passes an operator's wish on to every rack: each polls within some seconds, more of them for more racks."
    ),
    "confirm_manifest": (
        "Publishes the manifest anew, with word that an operator wants what it takes away. A rack waits for that before"
        " it drops more than half of the images it shows."
    ),
    "get_file": "A stored file by its SHA-256. Takes `Range`, `If-Range`, `If-Match`, `If-None-Match`, and HEAD.",
    "get_region": "The region's name, version and key. A rack compares the fingerprint with its token.",
    "get_region_keys": (
        "The key that signs what racks are told, and how each key before it vouches for the one after it. A rack that"
        " knows an earlier key follows, by itself."
    ),
    "livez": "Answers as long as the process does. It looks at nothing else.",
    "readyz": "Answers 200 when the region can work: database, schema and disk. Never asks a mirror.",
    "metrics": "Figures in the text format of Prometheus.",
}
"""What each operation does, by its id. A route with a docstring describes itself."""
