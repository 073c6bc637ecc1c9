"""What to bring in and what to withdraw: named cases, then what must be true whatever the case."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from region.catalogue.facts import File, Wish
from region.catalogue.rules import meanings
from region.importing.plan import Plan, plan
from shared.digest import Sha256
from shared.errors import InvalidValue
from shared.names import ImageKey, RelativePath
from tests import reference
from tests.reference import Product, Source, Version

NOBLE = ImageKey.parse("ubuntu:noble:amd64")
JAMMY = ImageKey.parse("ubuntu:jammy:amd64")
GRUB = ImageKey.parse("bootloader:uefi:amd64")
_ids = itertools.count(1)


def sha(name: str) -> Sha256:
    return Sha256.of(name.encode())


def version(name: str, files: str, *, held: bool = False, offered: bool = True) -> Version:
    """A version with these files, 100 bytes each; what a test calls `k1` has its digest and path from that name."""
    wanted = tuple(File(sha(file), 100, RelativePath(file), False) for file in files.split())
    return Version(next(_ids), name, offered, held, wanted)


def product(
    place: str, *versions: Version, source: int = 1, image: ImageKey = NOBLE, offered: bool = True, boot: bool = False
) -> Product:
    """A product of a source whose priority is ten times its id."""
    shown = tuple(replace(v, offered=v.offered and offered) for v in versions)
    return Product(next(_ids), source, image, place, offered, shown, kernel=place, bootloader=boot)


def named(products: Iterable[Product]) -> dict[int, str]:
    return {v.id: f"{p.source_id}/{p.place}/{v.name}" for p in products for v in p.versions}


Selected = Collection[tuple[int, ImageKey]]


def decide(
    selected: Selected,
    products: Iterable[Product],
    stored: Mapping[Sha256, int],
    *,
    bootloader_source: int = 1,
    not_current: Collection[int] = (),
) -> Plan:
    """The plan for this catalogue, with the targets that the reference finds."""
    shown = [
        replace(
            p,
            versions=tuple(
                replace(v, files=tuple(file._replace(stored=file.sha256 in stored) for file in v.files))
                for v in p.versions
            ),
        )
        for p in products
    ]
    wishes = frozenset(Wish(source_id, image) for source_id, image in selected)
    sources = [Source(n, n * 10, current=n not in not_current) for n in (1, 2)]
    wanted = reference.targets(wishes, sources, shown, bootloader_source=bootloader_source)
    return plan(meanings(wishes), wanted, reference.held(shown))


@dataclass(frozen=True)
class Expected:
    """Versions are `source/place/version`. `imports` names the files each lacks."""

    imports: dict[str, str]
    withdraw: set[str]
    lost: set[str]
    unavailable: set[ImageKey]
    needs_operator: bool = False


def expect(
    imports: dict[str, str] | None = None,
    *,
    withdraw: str = "",
    lost: str = "",
    unavailable: set[ImageKey] | None = None,
    needs_operator: bool = False,
) -> Expected:
    return Expected(imports or {}, set(withdraw.split()), set(lost.split()), unavailable or set(), needs_operator)


def found(decided: Plan, products: Iterable[Product]) -> Expected:
    names = named(products)
    return Expected(
        {names[e.version_id]: " ".join(file.path for file in e.missing) for e in decided.imports},
        {names[i] for i in decided.withdraw},
        {names[i] for i in decided.lost},
        set(decided.unavailable),
        decided.needs_operator,
    )


# Other held versions, so that a withdrawal stays below one in five.


def crowd(count: int) -> list[Product]:
    return [product(f"crowd{n}", version("1", f"c{n}", held=True), image=JAMMY) for n in range(count)]


@pytest.mark.parametrize(
    ("selected", "products", "stored", "expected"),
    [
        pytest.param([], [], "", expect(), id="nothing at all"),
        pytest.param([(1, NOBLE)], [], "", expect(unavailable={NOBLE}), id="selected, and no source knows it"),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "k1 s1"), version("2", "k2 s2"))],
            "",
            expect({"1/ga/2": "k2 s2"}),
            id="only the newest version is the target",
        ),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("20260701.10", "a"), version("20260701.9", "b"))],
            "",
            expect({"1/ga/20260701.9": "b"}),
            id="versions order as byte strings, not as numbers",
        ),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "k1 s1")), product("hwe", version("1", "h1 s1"))],
            "k1",
            expect({"1/ga/1": "s1", "1/hwe/1": "h1 s1"}),
            id="what is stored already is not fetched again",
        ),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "k1 s1"))],
            "k1 s1",
            expect({"1/ga/1": ""}),
            id="a target of which every file is stored still has to be made visible",
        ),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "k1 s1", held=True))],
            "k1 s1",
            expect(),
            id="held and whole: nothing to do",
        ),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "k1", held=True), version("2", "k2"))],
            "k1",
            expect({"1/ga/2": "k2"}),
            id="the old version stays while the new one is not held",
        ),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "k1", held=True), version("2", "k2", held=True))],
            "k1 k2",
            expect(withdraw="1/ga/1"),
            id="the old version goes once the new one is held",
        ),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "k1"), version("2", "k2", held=True, offered=False))],
            "k2",
            expect({"1/ga/1": "k1"}),
            id="a newest version taken back stays until the one before it is held",
        ),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "k1", held=True), version("2", "k2", held=True, offered=False))],
            "k1 k2",
            expect(withdraw="1/ga/2"),
            id="a newest version taken back goes once the one before it is held",
        ),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "k1", held=True), offered=False)],
            "k1",
            expect(unavailable={NOBLE}),
            id="a product that vanished is kept while it is selected",
        ),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "k1", held=True, offered=False))],
            "k1",
            expect(unavailable={NOBLE}),
            id="a product without any version left is kept while it is selected",
        ),
        pytest.param(
            [(1, NOBLE)],
            [
                product("ga", version("1", "k1", held=True)),
                product("hwe", version("1", "h1", held=True), offered=False),
            ],
            "k1 h1",
            expect(),
            id="a kernel that vanished is kept beside the others",
        ),
        pytest.param(
            [],
            [product("ga", version("1", "k1", held=True))],
            "k1",
            expect(withdraw="1/ga/1"),
            id="what nobody selects any more is withdrawn",
        ),
        pytest.param(
            [],
            [product("ga", version("1", "k1", held=True), offered=False)],
            "k1",
            expect(withdraw="1/ga/1"),
            id="what nobody selects is withdrawn, offered or not",
        ),
        pytest.param(
            [(1, JAMMY)],
            [product("ga", version("1", "k1", held=True)), *crowd(1)],
            "k1 c0",
            expect(withdraw="1/ga/1"),
            id="unselecting is an operator's word: no limit holds it up",
        ),
        # Several sources; the greater id has the higher priority.
        pytest.param(
            [(1, NOBLE), (2, NOBLE)],
            [product("ga", version("1", "a1")), product("ga", version("1", "b1"), source=2)],
            "",
            expect({"2/ga/1": "b1"}),
            id="the higher priority wins",
        ),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "a1")), product("ga", version("9", "b9"), source=2)],
            "",
            expect({"1/ga/1": "a1"}),
            id="a source the image is not selected from never wins",
        ),
        pytest.param(
            [(1, NOBLE), (2, NOBLE)],
            [product("ga", version("1", "a1")), product("ga", version("1", "b1"), source=2, offered=False)],
            "",
            expect({"1/ga/1": "a1"}),
            id="a source that does not offer it never wins",
        ),
        pytest.param(
            [(1, NOBLE), (2, NOBLE)],
            [
                product("ga", version("1", "a1", held=True)),
                product("hwe", version("1", "a2", held=True)),
                product("ga", version("1", "b1"), source=2),
                product("hwe", version("1", "b2"), source=2),
            ],
            "a1 a2",
            expect({"2/ga/1": "b1", "2/hwe/1": "b2"}),
            id="the loser's versions are kept until the winner's are held",
        ),
        pytest.param(
            [(1, NOBLE), (2, NOBLE)],
            [
                product("ga", version("1", "a1", held=True)),
                product("hwe", version("1", "a2", held=True)),
                product("ga", version("1", "b1", held=True), source=2),
                product("hwe", version("1", "b2"), source=2),
            ],
            "a1 a2 b1",
            expect({"2/hwe/1": "b2"}, withdraw="1/ga/1"),
            id="the loser goes place by place",
        ),
        pytest.param(
            [(1, NOBLE), (2, NOBLE), (1, JAMMY)],
            [
                product("ga", version("1", "a1", held=True)),
                product("hwe", version("1", "a2", held=True)),
                product("ga", version("1", "b1"), source=2),
                *crowd(9),
            ],
            "a1 a2 c0 c1 c2 c3 c4 c5 c6 c7 c8",
            expect({"2/ga/1": "b1"}),
            id="what only the loser has is kept until the winner is whole",
        ),
        pytest.param(
            [(1, NOBLE), (2, NOBLE), (1, JAMMY)],
            [
                product("ga", version("1", "a1", held=True)),
                product("hwe", version("1", "a2", held=True)),
                product("ga", version("1", "b1", held=True), source=2),
                *crowd(9),
            ],
            "a1 a2 b1 c0 c1 c2 c3 c4 c5 c6 c7 c8",
            expect(withdraw="1/ga/1 1/hwe/1", lost="1/hwe/1"),
            id="what only the loser has goes once the winner is whole",
        ),
        # The limit: more than one in five.
        *(
            pytest.param(
                [(1, NOBLE), (2, NOBLE), (1, JAMMY)],
                [
                    product("hwe", version("1", "a2", held=True)),
                    product("ga", version("1", "b1", held=True), source=2),
                    *crowd(held - 2),
                ],
                " ".join(["a2", "b1", *(f"c{n}" for n in range(held - 2))]),
                expect(withdraw="1/hwe/1", lost="1/hwe/1", needs_operator=needs),
                id=name,
            )
            for held, needs, name in [
                (4, True, "one of four taken away waits for an operator"),
                (5, False, "one of five taken away does not wait"),
            ]
        ),
        # Bootloaders.
        pytest.param(
            [(1, NOBLE)],
            [product("uefi", version("1", "g1"), image=GRUB, boot=True), product("ga", version("1", "k1", held=True))],
            "k1",
            expect({"1/uefi/1": "g1"}),
            id="bootloaders come without being selected",
        ),
        pytest.param(
            [],
            [product("uefi", version("1", "g1"), image=GRUB, boot=True)],
            "",
            expect(),
            id="bootloaders do not come while nothing is selected",
        ),
        pytest.param(
            [(1, NOBLE)],
            [
                product("ga", version("1", "k1", held=True)),
                product("uefi", version("1", "g1"), image=GRUB, boot=True),
                product("uefi", version("1", "h1"), image=GRUB, boot=True, source=2),
            ],
            "k1",
            expect({"1/uefi/1": "g1"}),
            id="bootloaders come from their source, whatever the priorities",
        ),
        pytest.param(
            [],
            [product("uefi", version("1", "g1", held=True), image=GRUB, boot=True)],
            "g1",
            expect(),
            id="a bootloader stays when nothing is selected any more",
        ),
        pytest.param(
            [(1, NOBLE)],
            [
                product("ga", version("1", "k1", held=True)),
                product("uefi", version("1", "g1", held=True), image=GRUB, boot=True, offered=False),
            ],
            "k1 g1",
            expect(),
            id="a bootloader that vanished stays, and is no image an operator selected",
        ),
        pytest.param(
            [(1, NOBLE)],
            [
                product("ga", version("1", "k1", held=True)),
                product("uefi", version("1", "g1"), image=GRUB, boot=True),
                product("uefi", version("1", "h1", held=True), image=GRUB, boot=True, source=2),
            ],
            "k1 h1",
            expect({"1/uefi/1": "g1"}),
            id="the bootloader of another source stays until the chosen one has its own",
        ),
        pytest.param(
            [(1, NOBLE)],
            [
                product("ga", version("1", "k1", held=True)),
                product("uefi", version("1", "g1", held=True), image=GRUB, boot=True),
                product("uefi", version("1", "h1", held=True), image=GRUB, boot=True, source=2),
            ],
            "k1 g1 h1",
            expect(withdraw="2/uefi/1"),
            id="the bootloader of another source goes once the chosen one has its own",
        ),
        # Healing.
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "k1 s1", held=True))],
            "k1",
            expect({"1/ga/1": "s1"}),
            id="a held target that lost a file gets it back",
        ),
        pytest.param(
            [(1, NOBLE)],
            [product("ga", version("1", "k1 s1", held=True), offered=False)],
            "k1",
            expect({"1/ga/1": "s1"}, unavailable={NOBLE}),
            id="a held version nobody offers that lost a file asks for it",
        ),
        pytest.param(
            [(1, NOBLE)],
            [
                product("ga", version("1", "k1", held=True)),
                product("hwe", version("1", "h1 s1", held=True), offered=False),
            ],
            "k1 h1",
            expect({"1/hwe/1": "s1"}),
            id="a vanished kernel that lost a file asks for it",
        ),
        pytest.param(
            [],
            [product("ga", version("1", "k1 s1", held=True))],
            "k1",
            expect(withdraw="1/ga/1"),
            id="what is about to go is not healed",
        ),
        pytest.param(
            [],
            [product("uefi", version("1", "g1", held=True), image=GRUB, boot=True)],
            "",
            expect({"1/uefi/1": "g1"}),
            id="a lost bootloader comes back even when nothing is selected",
        ),
    ],
)
def test_plan(selected: list[tuple[int, ImageKey]], products: list[Product], stored: str, expected: Expected) -> None:
    digests = {sha(name): 100 for name in stored.split()}
    assert found(decide(selected, products, digests), products) == expected
    # The order in which the database answers decides nothing.
    assert found(decide(selected[::-1], products[::-1], digests), products) == expected


def test_of_two_sources_the_chosen_one_gives_the_bootloader_whatever_is_selected_of_it() -> None:
    products = [
        product("ga", version("1", "k1", held=True)),
        product("jammy", version("1", "j1", held=True), source=2, image=JAMMY),
        product("uefi", version("1", "g1", held=True), image=GRUB, boot=True),
        product("uefi", version("1", "h1", held=True), image=GRUB, boot=True, source=2),
    ]
    stored = {sha(name): 100 for name in ("k1", "j1", "g1", "h1")}
    for chosen, other in ((1, 2), (2, 1)):
        decided = decide([(1, NOBLE), (2, JAMMY)], products, stored, bootloader_source=chosen)
        assert found(decided, products) == expect(withdraw=f"{other}/uefi/1")


def test_nothing_is_planned_from_a_source_that_was_not_read_under_its_present_trust() -> None:
    products = [product("ga", version("1", "k1", held=True), version("2", "k2"))]
    stored = {sha("k1"): 100}
    assert found(decide([(1, NOBLE)], products, stored), products) == expect({"1/ga/2": "k2"})
    assert found(decide([(1, NOBLE)], products, stored, not_current=[1]), products) == expect()


def test_a_file_that_versions_share_is_counted_once() -> None:
    products = [product("ga", version("1", "k1 s1")), product("hwe", version("1", "h1 s1"))]
    decided = decide([(1, NOBLE)], products, {})
    assert decided.fetch == {sha("k1"): 100, sha("h1"): 100, sha("s1"): 100}
    assert decided.fetch_bytes == 300


def test_a_held_version_that_lost_a_file_is_asked_for_once() -> None:
    assert len(decide([(1, NOBLE)], [product("ga", version("1", "k1", held=True))], {}).imports) == 1


def test_a_held_version_that_a_newer_one_replaces_is_not_healed() -> None:
    products = [product("ga", version("1", "k1", held=True), version("2", "k2"))]
    assert found(decide([(1, NOBLE)], products, {}), products) == expect({"1/ga/2": "k2"})


def test_a_held_kernel_that_nobody_selected_is_unwanted_though_its_image_is_selected() -> None:
    products = [product("ga", version("1", "k1", held=True)), product("hwe", version("1", "h1", held=True))]
    wishes = frozenset([Wish(1, NOBLE, kernels=frozenset(["ga"]))])
    decided = plan(meanings(wishes), [], reference.held(products))
    assert {named(products)[version_id] for version_id in decided.unwanted} == {"1/hwe/1"}


def test_a_bootloader_stays_until_another_takes_its_own_place() -> None:
    products = [
        product("uefi", version("1", "g1", held=True), image=GRUB, boot=True),
        product("uefi-signed", version("1", "h1", held=True), image=GRUB, boot=True, source=2),
    ]
    stored = {sha("g1"): 100, sha("h1"): 100}
    assert found(decide([], products, stored, bootloader_source=2), products) == expect()
    # Nor is it lost when the source chosen for bootloaders has one for the same machines in a place beside.
    beside = decide([(1, NOBLE)], products, stored, bootloader_source=2)
    assert found(beside, products) == expect(unavailable={NOBLE})


def test_needed_are_all_files_of_the_targets_and_fetched_are_those_that_lack() -> None:
    """Racks must hold what is needed, whether the region has it already or not; what is replaced is not needed."""
    products = [
        product("ga", version("1", "k1 s1", held=True), version("2", "k2 s2")),
        product("hwe", version("2", "h2 s2", held=True)),
        product("other", version("1", "o1"), image=JAMMY),
    ]
    decided = decide([(1, NOBLE)], products, {sha("k1"): 100, sha("s1"): 100, sha("h2"): 100, sha("s2"): 100})
    assert decided.needed == {sha("k2"): 100, sha("s2"): 100, sha("h2"): 100}
    assert decided.fetch == {sha("k2"): 100}
    assert decide([], products, {}).needed == {}


def test_parting_are_held_versions_that_nobody_wants_and_no_others() -> None:
    products = [product("ga", version("1", "k1", held=True)), product("ga", version("1", "j1", held=True), image=JAMMY)]
    decided = decide([(1, NOBLE)], products, {sha("k1"): 100, sha("j1"): 100})
    assert {named(products)[version_id] for version_id in decided.parting} == {"1/ga/1"}
    assert decided.parting == {products[1].versions[0].id}


def test_held_counts_versions_of_every_image() -> None:
    assert decide([(1, JAMMY)], crowd(3), {}).held == 3


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("ubuntu:noble", id="two parts"),
        pytest.param("ubuntu:noble:amd64:x", id="four parts"),
        pytest.param("ubuntu::amd64", id="an empty part"),
        pytest.param("ubuntu:../..:amd64", id="a part that climbs"),
        pytest.param("", id="nothing"),
    ],
)
def test_an_image_that_is_none(text: str) -> None:
    with pytest.raises(InvalidValue):
        ImageKey.parse(text)


# What is true of every catalogue: at most one product of a source in a place.

versions_ = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)), min_size=1, max_size=3
)  # offered, held, how many of its two files are stored


@st.composite
def situations(draw: st.DrawFn) -> tuple[set[tuple[int, ImageKey]], list[Product], dict[Sha256, int]]:
    selected = draw(st.sets(st.tuples(st.sampled_from([1, 2]), st.sampled_from([NOBLE, JAMMY]))))
    products: list[Product] = []
    stored: dict[Sha256, int] = {}
    places = [(NOBLE, "noble/ga"), (NOBLE, "noble/hwe"), (JAMMY, "jammy/ga"), (GRUB, "uefi")]
    for source, (image, place) in itertools.product([1, 2], places):
        made = []
        for serial, (offered, held, count) in enumerate(draw(versions_)):
            names = f"{source}{place}{serial}k {source}{place}{serial}s"
            stored |= {sha(name): 100 for name in names.split()[: 2 if held else count]}
            made.append(version(str(serial), names, offered=offered, held=held))
        products.append(
            product(place, *made, source=source, image=image, offered=draw(st.booleans()), boot=image == GRUB)
        )
    return selected, products, stored


def held_places(products: Iterable[Product], images: set[ImageKey]) -> set[str]:
    return {p.place for p in products if p.image in images for v in p.versions if v.held}


def carried_out(decided: Plan, products: Iterable[Product]) -> list[Product]:
    """The products once everything was fetched and everything withdrawn."""
    whole = {entry.version_id for entry in decided.imports}
    return [
        replace(
            p,
            versions=tuple(
                replace(v, held=v.id not in decided.withdraw and (v.held or v.id in whole)) for v in p.versions
            ),
        )
        for p in products
    ]


@examples(max_examples=60, deadline=None, derandomize=True)
@given(situations())
def test_withdrawing_never_leaves_a_wanted_place_empty_but_for_what_the_limit_counts(
    situation: tuple[set[tuple[int, ImageKey]], list[Product], dict[Sha256, int]],
) -> None:
    selected, products, stored = situation
    decided = decide(selected, products, stored)
    wanted = {image for _, image in selected} | {GRUB}
    gone = [
        replace(p, versions=tuple(replace(v, held=v.held and v.id not in decided.withdraw) for v in p.versions))
        for p in products
    ]
    lost = held_places(products, wanted) - held_places(gone, wanted)
    counted = {p.place for p in products for v in p.versions if v.id in decided.lost}
    assert lost <= counted
    assert decided.lost <= decided.withdraw
    assert {p.image for p in gone if p.place in lost} <= {p.image for p in gone if any(v.held for v in p.versions)}, (
        "an image lost everything"
    )


@examples(max_examples=60, deadline=None, derandomize=True)
@given(situations())
def test_carrying_plans_out_comes_to_rest(
    situation: tuple[set[tuple[int, ImageKey]], list[Product], dict[Sha256, int]],
) -> None:
    selected, products, stored = situation
    for _ in range(2):
        decided = decide(selected, products, stored)
        stored |= decided.fetch
        products = carried_out(decided, products)
    at_rest = decide(selected, products, stored)
    assert (at_rest.imports, at_rest.withdraw) == ((), frozenset())
    for image in {image for _, image in selected}:
        offering = [p for p in products if (p.source_id, image) in selected and p.image == image and p.lists()]
        top = max((p.source_id for p in offering), default=None)
        for p in offering:
            newest = max((v for v in p.versions if v.offered), key=lambda v: v.name.encode())
            assert newest.held == (p.source_id == top), "the winner's newest versions, and only they, are held"
