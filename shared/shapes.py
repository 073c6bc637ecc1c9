"""What pydantic finds wrong with a value, in our words: what is accepted instead. Its own words never reach anybody."""

from collections.abc import Mapping
from typing import Any

_TEXT, _WHOLE, _OBJECT, _LIST = (
    "it must be text",
    "it must be a whole number",
    "it must be a JSON object",
    "it must be a list",
)
_TIME = "it must be a date and time with its UTC offset, like 2026-07-01T12:00:00Z"
_SWITCH = "it must be true or false"

# https://docs.pydantic.dev/latest/errors/validation_errors/
_ACCEPTED: Mapping[str, str] = {
    "missing": "it is missing",
    "missing_argument": "it is missing",
    "extra_forbidden": "there is no such field",
    "none_required": "it must be null",
    "string_type": _TEXT,
    "string_sub_type": _TEXT,
    "string_unicode": "it must be text in UTF-8",
    "string_too_short": "it must have {min_length} characters or more",
    "string_too_long": "it must have {max_length} characters or fewer",
    "string_pattern_mismatch": "it must have the form {pattern}",
    "too_short": "it must have {min_length} entries or more",
    "too_long": "it must have {max_length} entries or fewer",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": "it must be a whole number of fewer digits",
    "int_from_float": _WHOLE,
    "float_type": "it must be a number",
    "float_parsing": "it must be a number",
    "finite_number": "it must be a number",
    "greater_than": "it must be greater than {gt}",
    "greater_than_equal": "it must be {ge} or more",
    "less_than": "it must be less than {lt}",
    "less_than_equal": "it must be {le} or less",
    "bool_type": _SWITCH,
    "bool_parsing": _SWITCH,
    "literal_error": "it must be one of {expected}",
    "enum": "it must be one of {expected}",
    "list_type": _LIST,
    "set_type": _LIST,
    "frozen_set_type": _LIST,
    "tuple_type": _LIST,
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "datetime_type": _TIME,
    "datetime_parsing": _TIME,
    "datetime_from_date_parsing": _TIME,
    "datetime_object_invalid": _TIME,
    "datetime_future": "it must lie ahead",
    "datetime_past": "it must lie in the past",
    "timezone_aware": _TIME,
    "path_type": "it must be the path of a file",
}


def accepted(error: Mapping[str, Any]) -> str:
    """What the value that `error` (of `ValidationError.errors()`) is about must be; completes "it is not acceptable: ".

    A ValueError of our own validators is its own words.
    """
    context = error.get("ctx") or {}
    if error["type"] == "value_error":
        return str(context.get("error") or "it does not have the form this takes").rstrip(".")
    template = _ACCEPTED.get(error["type"])
    if template is None:
        return "it does not have the form this takes"
    return template.format_map({name: str(value).replace(" or ", ", ") for name, value in context.items()})
