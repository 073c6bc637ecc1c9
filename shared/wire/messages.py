"""Messages: JSON into typed values that cannot be wrong, or InvalidDocument. Fields nobody knows are never built."""

import re
from typing import Annotated, Any, TypeVar

import msgspec

from shared.errors import InvalidDocument, InvalidValue
from shared.sizes import spoken_size

T = TypeVar("T")

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A whole number that PostgreSQL's bigint holds."""


class Format(msgspec.Struct):
    """The one field of a message that is read first; empty where there is none."""

    format: str = ""


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def decode(what: str, payload: bytes, shape: type[T], cap: int) -> T:
    """`payload` as a `shape`; `what` names it in errors. Raises InvalidDocument, also for more than `cap` bytes."""
    if len(payload) > cap:
        raise InvalidDocument(what, f"it is larger than {spoken_size(cap)}")
    try:
        return msgspec.json.decode(payload, type=shape, dec_hook=_parsed)
    except msgspec.ValidationError as error:
        raise InvalidDocument(what, _told(str(error))) from error
    except msgspec.DecodeError as error:
        raise InvalidDocument(what, "it is not JSON") from error
    except RecursionError as error:
        raise InvalidDocument(what, "it is nested too deeply") from error
    except InvalidValue as error:
        raise InvalidDocument(what, str(error).rstrip(".")) from error
    except ValueError as error:
        raise InvalidDocument(what, "a value in it is not acceptable") from error


def encode(message: Any) -> bytes:
    """The bytes of a message; equal messages give equal bytes."""
    return msgspec.json.encode(message, enc_hook=str)


def require_text(field: str, text: str, cap: int) -> str:
    """At most `cap` characters of `text`. Raises InvalidValue for what PostgreSQL or UTF-8 cannot hold."""
    if _UNSTORABLE.search(text):
        raise InvalidValue("text", text, f"{field} must be one")
    return text[:cap]


def _told(said: str) -> str:
    """msgspec's account of what does not fit, in our words."""
    problem, _, where = said.replace("`", "").rstrip(".").partition(" - at $")
    field = where.strip(".") or "form"
    if (missing := problem.removeprefix("Object missing required field ")) != problem:
        return f"the field {missing!r} is missing"
    if (expected := _EXPECTED.match(problem)) is None:
        # msgspec's "Invalid enum value 'link'", and JSON of a form it has no value for.
        value = problem.removeprefix("Invalid enum value ")
        return f"its {field} is not acceptable{f': there is no {value}' if value != problem else ''}"
    kinds = [_KINDS.get(kind.strip(), "another value") for kind in expected["kinds"].split("|")]
    bound = _BOUNDS.get(expected["bound"] or "", "").format(expected["limit"])
    return f"its {field} is not acceptable: it must be {' or '.join(kinds)}{bound}"


# How msgspec words what it expects.
_EXPECTED = re.compile(
    r"Expected (?P<kinds>[a-z]+(?: \| [a-z]+)*)(?: (?P<bound>>=|<=|>|<|of length >=|of length <=) (?P<limit>[0-9]+))?"
)
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a JSON object",
    "null": "null",
}
_BOUNDS = {
    ">=": " of {} or more",
    "<=": " of {} or less",
    ">": " above {}",
    "<": " below {}",
    "of length >=": " of at least {} characters or entries",
    "of length <=": " of at most {} characters or entries",
}


def _parsed(kind: type, value: object) -> Any:
    return kind(value)
