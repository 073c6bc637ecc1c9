"""What people are told instead of pydantic's words, for each way in which a value can be wrong."""

from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FutureDatetime,
    PastDatetime,
    Strict,
    TypeAdapter,
    ValidationError,
    validate_call,
)

from shared.shapes import accepted


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", from_attributes=True)
    name: str = ""


class Needy(BaseModel):
    name: str


class Colour(StrEnum):
    RED = "red"


class NoZone(tzinfo):
    """Its offset from UTC is not known."""


def call(value: object) -> None:
    @validate_call
    def named(name: str) -> None: ...

    named(**value)  # type: ignore[arg-type]


def odd(value: int) -> int:
    raise ValueError("it must be odd, like MAX.")


TIME = "it must be a date and time with its UTC offset, like 2026-07-01T12:00:00Z"

CASES: list[tuple[str, Any, object, str]] = [
    ("missing", Needy, {}, "it is missing"),
    ("missing_argument", call, {}, "it is missing"),
    ("extra_forbidden", Closed, {"age": 3}, "there is no such field"),
    ("none_required", None, 3, "it must be null"),
    ("string_type", str, 3, "it must be text"),
    ("string_unicode", str, b"\xff", "it must be text in UTF-8"),
    ("string_too_short", Annotated[str, Field(min_length=2)], "a", "it must have 2 characters or more"),
    ("string_too_long", Annotated[str, Field(max_length=2)], "abc", "it must have 2 characters or fewer"),
    ("string_pattern_mismatch", Annotated[str, Field(pattern="^a+$")], "b", "it must have the form ^a+$"),
    ("too_short", Annotated[list[int], Field(min_length=2)], [1], "it must have 2 entries or more"),
    ("too_long", Annotated[list[int], Field(max_length=1)], [1, 2], "it must have 1 entries or fewer"),
    ("int_type", int, None, "it must be a whole number"),
    ("int_parsing", int, "a", "it must be a whole number"),
    ("int_parsing_size", int, "1" * 5000, "it must be a whole number of fewer digits"),
    ("int_from_float", int, 1.5, "it must be a whole number"),
    ("float_type", float, None, "it must be a number"),
    ("float_parsing", float, "a", "it must be a number"),
    ("finite_number", Annotated[float, Field(allow_inf_nan=False)], float("inf"), "it must be a number"),
    ("greater_than", Annotated[int, Field(gt=3)], 3, "it must be greater than 3"),
    ("greater_than_equal", Annotated[int, Field(ge=3)], 2, "it must be 3 or more"),
    ("less_than", Annotated[int, Field(lt=3)], 3, "it must be less than 3"),
    ("less_than_equal", Annotated[int, Field(le=3)], 4, "it must be 3 or less"),
    ("bool_type", bool, None, "it must be true or false"),
    ("bool_parsing", bool, "a", "it must be true or false"),
    ("literal_error", Literal["a", "b", "c"], "d", "it must be one of 'a', 'b', 'c'"),
    ("enum", Colour, "blue", "it must be one of 'red'"),
    ("list_type", list[int], 3, "it must be a list"),
    ("set_type", set[int], 3, "it must be a list"),
    ("frozen_set_type", frozenset[int], 3, "it must be a list"),
    ("tuple_type", tuple[int], 3, "it must be a list"),
    ("dict_type", dict[str, int], 3, "it must be a JSON object"),
    ("model_type", Needy, 3, "it must be a JSON object"),
    ("model_attributes_type", Closed, 3, "it must be a JSON object"),
    ("datetime_type", datetime, None, TIME),
    ("datetime_parsing", Annotated[datetime, Strict()], '"yesterday"', TIME),
    ("datetime_from_date_parsing", datetime, "yesterday", TIME),
    ("datetime_object_invalid", AwareDatetime, datetime(2026, 7, 1, tzinfo=NoZone()), TIME),  # type: ignore[abstract]
    ("datetime_future", FutureDatetime, datetime(2001, 7, 1, tzinfo=UTC), "it must lie ahead"),
    ("datetime_past", PastDatetime, datetime(2999, 7, 1, tzinfo=UTC), "it must lie in the past"),
    ("timezone_aware", AwareDatetime, "2026-07-01T12:00:00", TIME),
    ("path_type", Path, 3, "it must be the path of a file"),
    ("value_error", Annotated[int, AfterValidator(odd)], 2, "it must be odd, like MAX"),
    ("bytes_type", bytes, 3, "it does not have the form this takes"),
]


@pytest.mark.parametrize(("kind", "shape", "value", "told"), CASES, ids=[case[0] for case in CASES])
def test_what_is_accepted_instead_is_told_in_our_words(kind: str, shape: Any, value: object, told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        if shape is call:
            call(value)
        elif kind == "datetime_parsing":
            TypeAdapter(shape).validate_json(str(value))
        else:
            TypeAdapter(shape).validate_python(value)
    [error] = refused.value.errors()
    assert error["type"] == kind
    assert accepted(error) == told
