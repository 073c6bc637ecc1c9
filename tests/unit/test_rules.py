"""What a selection means: named cases, true metadata, and what must hold whatever sources know."""

import random
from collections.abc import Iterable
from datetime import date

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from region.catalogue.facts import Wish
from region.catalogue.patterns import Pattern, is_exact, is_moving, is_rule, parse_release
from region.catalogue.rules import Known, meanings
from region.cli import names
from shared.errors import InvalidValue
from shared.names import ImageKey, Name
from tests.unit.test_real_scale import needs_real_data, read

TODAY = date(2026, 7, 23)
VERSIONS = {
    "focal": ("20.04", True, date(2025, 5, 31)),
    "jammy": ("22.04", True, date(2027, 6, 1)),
    "noble": ("24.04", True, date(2029, 5, 31)),
    "questing": ("25.10", False, date(2026, 7, 23)),
    "resolute": ("26.04", True, date(2031, 5, 29)),
    "mine": ("1", False, None),
}


def know(
    *images: str,
    source: int = 1,
    priority: int = 10,
    signed: bool = True,
    enabled: bool = True,
    os: str = "ubuntu",
) -> list[Known]:
    """`noble/amd64` as a source knows it; the facts of a release are those of VERSIONS."""
    return [
        Known(source, signed, enabled, priority, ImageKey(Name(os), Name(release), Name(arch)), *VERSIONS[release])
        for release, arch in (image.split("/") for image in images)
    ]


ALL = [f"{release}/amd64" for release in VERSIONS]


def meant(said: str, known: Iterable[Known], *, source: int | None = None, today: date = TODAY) -> str:
    os, release, arch = said.split("/")
    [images] = meanings([Wish(source, Pattern.parse(os, release, arch))], known, today).values()
    return " ".join(sorted(f"{image.release}/{image.arch}" for image in images))


@pytest.mark.parametrize(
    ("said", "known", "expected"),
    [
        pytest.param("ubuntu/noble/amd64", know(*ALL), "noble/amd64", id="a name means itself"),
        pytest.param("ubuntu/warty/amd64", know(*ALL), "warty/amd64", id="a name means itself though nobody knows it"),
        pytest.param("ubuntu/lts/amd64", know(*ALL), "resolute/amd64", id="the newest LTS"),
        pytest.param("ubuntu/lts:1/amd64", know(*ALL), "resolute/amd64", id="the newest one LTS"),
        pytest.param("ubuntu/lts:2/amd64", know(*ALL), "noble/amd64 resolute/amd64", id="the newest two"),
        pytest.param(
            "ubuntu/lts:9/amd64",
            know(*ALL),
            "focal/amd64 jammy/amd64 noble/amd64 resolute/amd64",
            id="as many as there are, whatever their support",
        ),
        pytest.param("ubuntu/lts/amd64", know("questing/amd64"), "", id="no LTS is known"),
        pytest.param("ubuntu/lts/amd64", [], "", id="nothing is known"),
        pytest.param("ubuntu/lts/arm64", know(*ALL), "", id="another architecture"),
        pytest.param("centos/lts/amd64", know(*ALL), "", id="another os"),
        pytest.param(
            "ubuntu/lts/*",
            know("resolute/amd64", "noble/amd64", "noble/arm64", "jammy/arm64"),
            "noble/arm64 resolute/amd64",
            id="each architecture has its own newest",
        ),
        pytest.param(
            "ubuntu/noble/*", know("noble/amd64", "noble/arm64", "jammy/i386"), "noble/amd64 noble/arm64",
            id="every architecture of a release",
        ),
        pytest.param("ubuntu/noble/*", know("jammy/amd64"), "", id="no architecture of a release"),
        pytest.param(
            "ubuntu/supported/amd64", know(*ALL), "jammy/amd64 mine/amd64 noble/amd64 questing/amd64 resolute/amd64",
            id="supported: also on the last day, and without an end",
        ),
        pytest.param("ubuntu/supported/amd64", know("focal/amd64"), "", id="support of all has ended"),
        pytest.param("ubuntu/*/amd64", know(*ALL), " ".join(sorted(ALL)), id="everything"),
        pytest.param(
            "ubuntu/*/*", know("noble/amd64") + know("mine/s390x", os="other"), "noble/amd64",
            id="everything of one os",
        ),
        pytest.param(
            "ubuntu/lts/amd64",
            know("noble/amd64") + know("resolute/amd64", source=2, priority=5),
            "noble/amd64",
            id="the source with the greater priority is followed",
        ),
        pytest.param(
            "ubuntu/lts/amd64",
            know("noble/amd64") + know("resolute/amd64", source=2, priority=99, signed=False),
            "noble/amd64",
            id="a signed source is followed before an unsigned one",
        ),
        pytest.param(
            "ubuntu/lts/amd64",
            know("noble/amd64", enabled=False) + know("resolute/amd64", source=2, priority=5),
            "resolute/amd64",
            id="a source that is enabled is followed before one that is not",
        ),
        pytest.param(
            "ubuntu/lts/amd64",
            know("noble/amd64", enabled=False) + know("resolute/amd64", source=2, signed=False),
            "noble/amd64",
            id="an unsigned source is not followed because the signed one is disabled",
        ),
        pytest.param(
            "ubuntu/lts/arm64",
            know("noble/amd64") + know("jammy/arm64", source=2, priority=5),
            "jammy/arm64",
            id="a source that knows nothing of the architecture is not followed",
        ),
        pytest.param(
            "ubuntu/*/amd64",
            know("noble/amd64") + know("jammy/amd64", source=2, priority=5),
            "noble/amd64",
            id="another source adds nothing",
        ),
    ],
)  # fmt: skip
def test_what_a_selection_means(said: str, known: list[Known], expected: str) -> None:
    assert meant(said, known) == expected


def test_a_rule_that_names_a_source_follows_it() -> None:
    known = know("resolute/amd64") + know("noble/amd64", source=2, priority=5, signed=False)
    assert meant("ubuntu/lts/amd64", known, source=2) == "noble/amd64"
    assert meant("ubuntu/lts/amd64", known, source=3) == ""


def test_support_ends_on_a_day() -> None:
    known = know("questing/amd64")
    assert meant("ubuntu/supported/amd64", known, today=date(2026, 7, 23)) == "questing/amd64"
    assert meant("ubuntu/supported/amd64", known, today=date(2026, 7, 24)) == ""


def test_versions_order_as_people_order_them() -> None:
    VERSIONS["old"], VERSIONS["new"] = ("6.06", True, None), ("10.04", True, None)
    try:
        assert meant("ubuntu/lts/amd64", know("old/amd64", "new/amd64")) == "new/amd64"
    finally:
        del VERSIONS["old"], VERSIONS["new"]


@pytest.mark.parametrize(
    "release", ["lts:0", "lts:", "lts:100", "lts:-1", "lts:1.5", "lts:01", "**", "", "../x", "no:ble", "lts,supported"]
)
def test_what_is_neither_a_name_nor_a_rule_is_refused(release: str) -> None:
    with pytest.raises(InvalidValue, match=r"is not a release: name one, as in noble or 24\.04, or say lts, lts:2"):
        parse_release(release)


@pytest.mark.parametrize(
    "release",
    ["lts", "lts:1", "lts:99", "supported", "*", "noble", "24.04", "lts:0", "lts:100", "lts:", "LTS", "lts-2", ""],
)
def test_the_command_line_knows_the_same_rules(release: str) -> None:
    assert names.is_rule(release) is is_rule(release)


def test_what_is_exact_and_what_moves() -> None:
    told = {
        said: (is_exact(pattern), is_moving(pattern))
        for said in ("noble/amd64", "noble/*", "lts/amd64", "lts:2/*", "supported/amd64", "*/amd64")
        for pattern in [Pattern.parse("ubuntu", *said.split("/"))]
    }
    assert told == {
        "noble/amd64": (True, False),
        "noble/*": (False, False),
        "lts/amd64": (False, True),
        "lts:2/*": (False, True),
        "supported/amd64": (False, True),
        "*/amd64": (False, False),
    }


@needs_real_data
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ubuntu/lts:2/amd64", "noble/amd64 resolute/amd64"),
        ("ubuntu/lts/i386", "bionic/i386"),
        ("ubuntu/supported/amd64", "jammy/amd64 noble/amd64 resolute/amd64"),
        ("ubuntu/lts/*", "bionic/i386 resolute/amd64 resolute/arm64 resolute/ppc64el resolute/s390x"),
    ],
)
def test_what_rules_mean_of_the_stable_stream(said: str, expected: str) -> None:
    products = read("com.ubuntu.maas:stable:v3:download").products
    known = {
        Known(1, True, True, 10, ImageKey(p.os, p.release, p.arch), p.version, p.lts, p.support_eol) for p in products
    }
    found = set(meant(said, known).split())
    assert set(expected.split()) <= found, found
    if "*" not in said:
        assert found == set(expected.split())


# Whatever sources know.

_images = st.sampled_from([f"{release}/{arch}" for release in VERSIONS for arch in ("amd64", "arm64")])
_known = st.lists(st.tuples(st.integers(1, 3), _images), max_size=12).map(
    lambda drawn: [each for source, image in drawn for each in know(image, source=source, priority=source)]
)
_wishes = st.lists(
    st.builds(
        Wish,
        st.sampled_from([None, 1, 2]),
        st.builds(
            Pattern,
            st.just("ubuntu"),
            st.sampled_from(["noble", "lts", "lts:2", "lts:3", "supported", "*"]),
            st.sampled_from(["amd64", "arm64", "*"]),
        ),
    ),
    max_size=5,
)


@examples(max_examples=100, deadline=None, derandomize=True)
@given(_wishes, _known, st.randoms())
def test_neither_the_order_of_clauses_nor_of_what_is_known_matters(
    wishes: list[Wish], known: list[Known], rng: random.Random
) -> None:
    shuffled_wishes, shuffled = wishes.copy(), known.copy()
    rng.shuffle(shuffled_wishes)
    rng.shuffle(shuffled)
    assert meanings(shuffled_wishes, shuffled, TODAY) == meanings(wishes, known, TODAY)


@examples(max_examples=100, deadline=None, derandomize=True)
@given(_known, _known, st.sampled_from(["lts", "lts:2", "supported", "*"]))
def test_a_source_that_is_not_followed_has_no_say(known: list[Known], others: list[Known], release: str) -> None:
    """What a source of a lower priority says changes nothing while the first knows anything that could be meant."""
    first = [entry._replace(source_id=9, priority=99) for entry in known if entry.image.arch == "amd64"]
    said = f"ubuntu/{release}/amd64"
    if first:
        assert meant(said, first + others) == meant(said, first)


@examples(max_examples=100, deadline=None, derandomize=True)
@given(_known, _known, st.sampled_from(["lts", "lts:2", "lts:3"]))
def test_what_leaves_the_newest_has_a_successor_of_its_architecture(
    known: list[Known], more: list[Known], release: str
) -> None:
    one = [entry._replace(source_id=1, priority=1) for entry in known]
    other = one + [entry._replace(source_id=1, priority=1) for entry in more]
    before, after = meant(f"ubuntu/{release}/*", one).split(), meant(f"ubuntu/{release}/*", other).split()
    for gone in set(before) - set(after):
        assert any(came.endswith(gone.rpartition("/")[2]) for came in set(after) - set(before))
