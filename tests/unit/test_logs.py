"""Log lines, as a person and as a machine read them."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import structlog

from shared import logs
from shared.logs import LogFormat

CHATTY = ["apscheduler", "aiohttp.access", "uvicorn.access", "alembic", "asyncio"]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Logging is the process's: give it back as it was."""
    root = logging.getLogger()
    handlers, level, configured = root.handlers[:], root.level, structlog.get_config()
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configured)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def written(log_format: LogFormat, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, log_format, stream)
    return stream


def documents(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_machine_reads_a_sentence_an_action_and_ids() -> None:
    stream = written("json")
    logs.logger("rack.pull").info("Pulled a file.", action="pull", sha256="3c64", size=7)
    [line] = documents(stream)
    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() is not None
    assert line == {"event": "Pulled a file.", "level": "info", "action": "pull", "sha256": "3c64", "size": 7}


def test_a_person_reads_the_same() -> None:
    stream = written("text")
    logs.logger("rack.pull").warning("Pulled a file.", action="pull", size=7)
    [line] = stream.getvalue().splitlines()
    assert "\x1b" not in line
    for part in ("warning", "Pulled a file.", "action=pull", "size=7"):
        assert part in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_libraries_lines_look_alike(log_format: LogFormat) -> None:
    stream = written(log_format)
    logging.getLogger("some.package").warning("%d of %s", 3, "four")
    [line] = stream.getvalue().splitlines()
    assert "3 of four" in line
    assert "warning" in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_level_is_a_floor(log_format: LogFormat) -> None:
    stream = written(log_format, "warning")
    logs.logger("x").info("unseen")
    logging.getLogger("some.package").info("unseen")
    logs.logger("x").error("seen")
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("name", CHATTY)
def test_chatter_is_heard_from_warnings_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A uvicorn that ran in this process before may have silenced its own.
    monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    stream = written("json", "debug")
    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("trouble")
    assert [line["event"] for line in documents(stream)] == ["trouble"]


@pytest.mark.parametrize("who", ["ours", "a-library"])
def test_an_exception_stays_on_its_line_for_machines(who: str) -> None:
    stream = written("json")
    try:
        raise OSError("the disk is gone")
    except OSError:
        if who == "ours":
            logs.logger("x").exception("It failed.", action="pull")
        else:
            logging.getLogger("some.package").exception("It failed.")
    [line] = documents(stream)
    assert line["event"] == "It failed."
    assert "OSError: the disk is gone" in line["exception"]


def test_an_exception_is_shown_to_people() -> None:
    stream = written("text")
    try:
        raise OSError("the disk is gone")
    except OSError:
        logs.logger("x").exception("It failed.")
    assert "OSError: the disk is gone" in stream.getvalue()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_value_from_outside_cannot_forge_a_line(log_format: LogFormat) -> None:
    stream = written(log_format)
    forged = "x\n2026-07-01T00:00:00Z [info     ] All is well.\x1b[2J"
    logs.logger("x").info("Refused a name.", name=forged)
    logs.logger("x").info(f"There is no rack {forged}.")
    logging.getLogger("some.package").info("asked for %s", forged)
    assert len(stream.getvalue().splitlines()) == 3
    assert "\x1b" not in stream.getvalue()


def test_configuring_again_moves_every_line() -> None:
    first, second = written("json"), written("json")
    logging.getLogger("some.package").warning("once")
    logs.logger("x").warning("once")
    assert first.getvalue() == ""
    assert len(documents(second)) == 2


def test_ids_bound_to_a_task_are_on_every_line() -> None:
    stream = written("json")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        logs.logger("x").info("ours")
        logging.getLogger("some.package").info("theirs")
    assert [line["request_id"] for line in documents(stream)] == ["r1", "r1"]


def test_what_libraries_say_shows_no_password_and_no_token() -> None:
    stream = written("json")
    token = f"bf_0123456789ab_{'x' * 43}"
    try:
        raise ValueError(f"http://ann:c4n4ry@proxy.example:1/ with {token}")
    except ValueError:
        logging.getLogger("somebody").exception("https://c4n4ry@mirror.example/%s", token)
        logs.logger("ours").exception("It failed.", url="http://:c4n4ry@mirror.example/", token=f"bfe_{'y' * 90}")
    told = stream.getvalue()
    assert "c4n4ry" not in told
    assert "x" * 10 not in told
    assert "y" * 20 not in told
    assert "://***@proxy.example:1/" in told
    assert "bf_0123456789ab" in told, "which token it was may be said"
