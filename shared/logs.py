"""Logs: a sentence, an `action` and ids, one line each; JSON where a machine reads them."""

import logging
import re
import sys
from typing import Any, Literal, TextIO

import structlog

LogFormat = Literal["text", "json"]


def configure(level: str, log_format: LogFormat, stream: TextIO = sys.stderr) -> None:
    """After this every log line, the libraries' included, goes to `stream` in `log_format`."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _without_secrets,
    ]
    if log_format == "text":
        shared.append(_one_line)
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=0)
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # These say per request or per tick what our own lines say once.
    for chatty in ("apscheduler", "aiohttp.access", "uvicorn.access", "uvicorn.error", "alembic", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


_SECRETS = ((re.compile(r"://[^/\s@]+@"), "://***@"), (re.compile(r"\b(bfe?_[0-9a-zA-Z]{0,12})[\w-]{30,}"), r"\1***"))


def _without_secrets(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What a library says of an address or a token, in a traceback for instance, shows no password and no secret (I7).

    Our own lines carry none; this is for what we did not write.
    """
    for name, value in event.items():
        if isinstance(value, str):
            for secret, shown in _SECRETS:
                value = secret.sub(shown, value)
            event[name] = value
    return event


def _one_line(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A sentence may quote what came from outside: no line and no terminal sequence of its own."""
    text = str(event["event"])
    event["event"] = text if text.isprintable() else text.encode("unicode_escape").decode()
    return event


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of the module `name`: call it with a sentence, `action=` and ids."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound
