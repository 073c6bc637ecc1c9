"""Shapes that more than one router speaks: pages, images by their three names, and parsed values from outside."""

from collections.abc import Callable, Sequence
from datetime import date
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query, Request, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from region.actions.effect import Effect
from shared.errors import InvalidValue
from shared.names import ImageKey, Name

ItemT = TypeVar("ItemT")
ShapeT = TypeVar("ShapeT", bound=BaseModel)
MAX_PAGE = 1000

NOT_STORED = {"Cache-Control": "no-store"}
"""On every answer that carries a secret: neither a browser nor a proxy may keep it."""


def parsed(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`parse`, whose InvalidValue becomes what pydantic reports with the field's name."""

    def parse_or_refuse(value: Any) -> Any:
        try:
            return parse(value)
        except InvalidValue as error:
            raise ValueError(str(error)) from error

    return parse_or_refuse


NameField = Annotated[str, AfterValidator(parsed(Name)), Field(examples=["ubuntu"])]
NameCursor = Annotated[
    str | None, Query(pattern=r"^[A-Za-z0-9._+~-]{1,128}$", description="`next` of the page before.")
]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE, description="The most items one page holds.")]


class Shape(BaseModel):
    """The base of every body: unknown fields of a request are refused, attributes of a domain object are read."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


class ImageName(Shape):
    """An image by its three names."""

    os: NameField = Field(examples=["ubuntu"])
    release: NameField = Field(examples=["noble"])
    arch: NameField = Field(examples=["amd64"])

    def key(self) -> ImageKey:
        """The image."""
        return ImageKey(Name(self.os), Name(self.release), Name(self.arch))


class OfferShown(ImageName):
    """An image that a source offers. `size_bytes` counts files that its kernels share once."""

    title: str = Field(examples=["24.04 LTS"])
    release_version: str = Field(
        description="The release's number, which may stand for its name; empty where it has none.", examples=["24.04"]
    )
    version: str = Field(description="The newest version offered.", examples=["20260705"])
    lts: bool
    support_eol: date | None
    kernels: list[str] = Field(examples=[["ga-24.04", "hwe-24.04"]])
    size_bytes: int
    source_id: int | None = Field(None, description="Whose offer it is; null in a probe.")


class EffectShown(Shape):
    """What a change, and the import after it, do to bootloaders, and what to think about before."""

    bootloaders_add: set[str] = Field(description="Bootloaders that come with it, by id.")
    bootloaders_change: set[str] = Field(description="Bootloaders that are replaced, by id.")
    bootloaders_withdraw: set[str] = Field(description="Bootloaders that are withdrawn, by id.")
    warnings: list[str] = Field(description="What to think about before it is done, a sentence each.")
    fetch_bytes: int = Field(description="Bytes that the import after it has to fetch.")

    @staticmethod
    def of(effect: Effect | None) -> "EffectShown":
        """The effect as it is shown; None is none at all."""
        if effect is None:
            return EffectShown(
                bootloaders_add=set(), bootloaders_change=set(), bootloaders_withdraw=set(), warnings=[], fetch_bytes=0
            )
        return EffectShown.model_validate(effect)


ImageId = Annotated[
    str,
    BeforeValidator(parsed(lambda text: str(ImageKey.parse(text)))),
    Field(description="`os:release:arch`", examples=["ubuntu:noble:amd64"]),
]


class Page(BaseModel, Generic[ItemT]):
    """Some items, and the cursor to ask for those after them; null on the last page."""

    items: list[ItemT]
    next: str | None = None


def paged(
    request: Request,
    response: Response,
    found: Sequence[Any],
    limit: int,
    shape: type[ShapeT],
    cursor: Callable[[Any], str],
) -> Page[ShapeT]:
    """The page of `found`, of which one more than `limit` was read to know whether more follows.

    The next page is named in a `Link` header too (RFC 8288).
    """
    following = cursor(found[limit - 1]) if len(found) > limit else None
    if following is not None:
        response.headers["Link"] = f'<{request.url.include_query_params(cursor=following)}>; rel="next"'
    return Page(items=[shape.model_validate(entry) for entry in found[:limit]], next=following)
