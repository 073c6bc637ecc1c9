"""What becomes of what is held when a selection names fewer kernels, or a rule means other images than before."""

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from region.catalogue.facts import Wish
from region.catalogue.patterns import Pattern
from region.importing.plan import Plan, plan
from shared.names import ImageKey
from tests import reference
from tests.reference import Product, Source
from tests.unit.test_plan import named, product, version

RESOLUTE, NOBLE, JAMMY = (ImageKey.parse(f"ubuntu:{release}:amd64") for release in ("resolute", "noble", "jammy"))
NOBLE_ARM64 = ImageKey.parse("ubuntu:noble:arm64")
LTS, SUPPORTED = Pattern("ubuntu", "lts", "amd64"), Pattern("ubuntu", "supported", "*")
Meant = dict[Wish, frozenset[ImageKey]]


def rule(pattern: Pattern, *images: ImageKey, kernels: frozenset[str] | None = None) -> Meant:
    return {Wish(None, pattern, kernels): frozenset(images)}


def some(image: ImageKey, *kernels: str) -> Meant:
    return {Wish(None, image, frozenset(kernels) or None): frozenset({image})}


def decide(meant: Meant, products: list[Product]) -> Plan:
    """The plan where every file of what is held is stored."""
    exact = {replace(wish, image=image) for wish, images in meant.items() for image in images}
    whole = [
        replace(
            p,
            versions=tuple(
                replace(v, files=tuple(f._replace(stored=v.held or f.stored) for f in v.files)) for v in p.versions
            ),
        )
        for p in products
    ]
    return plan(meant, reference.targets(exact, [Source(1, 10), Source(2, 20)], whole), reference.held(whole))


def one(image: ImageKey, kernel: str, *, held: bool, offered: bool = True, source: int = 1) -> Product:
    name = f"{image.release}-{image.arch}-{kernel}"
    made = product(name, version("1", f"{name}-k", held=held), image=image, offered=offered, source=source)
    return replace(made, kernel=kernel)


@pytest.mark.parametrize(
    ("meant", "products", "unwanted", "lost"),
    [
        pytest.param(
            some(NOBLE, "ga"),
            [one(NOBLE, "ga-24.04", held=True), one(NOBLE, "hwe-24.04", held=True)],
            "1/noble-amd64-hwe-24.04/1",
            "",
            id="a kernel that is left out goes",
        ),
        pytest.param(
            some(NOBLE, "ga"),
            [one(NOBLE, "ga-24.04", held=False), one(NOBLE, "hwe-24.04", held=True)],
            "",
            "",
            id="it stays while nothing else of its image is held",
        ),
        pytest.param(
            some(NOBLE, "ga", "hwe-edge"),
            [one(NOBLE, "ga-24.04", held=True), one(NOBLE, "hwe-24.04-edge", held=False),
             one(NOBLE, "hwe-24.04", held=True)],
            "",
            "",
            id="it stays while a kernel that came instead is not held",
        ),
        pytest.param(
            some(NOBLE, "ga"),
            [one(NOBLE, "ga-24.04", held=True, offered=False), one(NOBLE, "hwe-24.04", held=True)],
            "1/noble-amd64-hwe-24.04/1",
            "",
            id="what is held and vanished upstream is a successor",
        ),
        pytest.param(
            rule(LTS, RESOLUTE),
            [one(RESOLUTE, "ga-26.04", held=False), one(NOBLE, "ga-24.04", held=True)],
            "",
            "",
            id="what leaves a rule stays while its successor is not held",
        ),
        pytest.param(
            rule(LTS, RESOLUTE),
            [one(RESOLUTE, "ga-26.04", held=True), one(RESOLUTE, "hwe-26.04", held=False),
             one(NOBLE, "ga-24.04", held=True)],
            "",
            "",
            id="what leaves a rule stays while its successor is held in part",
        ),
        pytest.param(
            rule(LTS, RESOLUTE),
            [one(RESOLUTE, "ga-26.04", held=True), one(NOBLE, "ga-24.04", held=True)],
            "",
            "1/noble-amd64-ga-24.04/1",
            id="what leaves a rule goes once its successor is held, and is counted",
        ),
        pytest.param(
            rule(LTS, RESOLUTE),
            [one(RESOLUTE, "ga-26.04", held=True), one(NOBLE, "ga-24.04", held=True, offered=False)],
            "",
            "1/noble-amd64-ga-24.04/1",
            id="the same whether it is still offered or not",
        ),
        pytest.param(rule(LTS), [one(NOBLE, "ga-24.04", held=True)], "", "", id="a rule without images takes nothing"),
        pytest.param(
            rule(SUPPORTED, RESOLUTE),
            [one(RESOLUTE, "ga-26.04", held=True), one(NOBLE_ARM64, "ga-24.04", held=True)],
            "",
            "",
            id="a successor has the same architecture",
        ),
        pytest.param(
            rule(LTS, RESOLUTE) | some(NOBLE),
            [one(RESOLUTE, "ga-26.04", held=True), one(NOBLE, "ga-24.04", held=True)],
            "",
            "",
            id="what leaves a rule and is selected by name stays",
        ),
        pytest.param(
            some(RESOLUTE),
            [one(RESOLUTE, "ga-26.04", held=False), one(NOBLE, "ga-24.04", held=True)],
            "1/noble-amd64-ga-24.04/1",
            "",
            id="what was unselected by name goes at once",
        ),
        pytest.param(
            rule(Pattern("centos", "lts", "amd64")),
            [one(NOBLE, "ga-24.04", held=True)],
            "1/noble-amd64-ga-24.04/1",
            "",
            id="the rule of another os keeps nothing",
        ),
        pytest.param(
            rule(Pattern("ubuntu", "*", "amd64"), RESOLUTE),
            [one(NOBLE_ARM64, "ga-24.04", held=True)],
            "1/noble-arm64-ga-24.04/1",
            "",
            id="nothing leaves a rule that means everything by itself",
        ),
    ],
)  # fmt: skip
def test_what_goes(meant: Meant, products: list[Product], unwanted: str, lost: str) -> None:
    decided = decide(meant, products)
    names = named(products)
    assert {names[each] for each in decided.unwanted} == set(unwanted.split())
    assert {names[each] for each in decided.lost} == set(lost.split())
    assert decided.withdraw == decided.unwanted | decided.lost


def test_what_leaves_a_rule_waits_for_an_operator_when_it_is_much() -> None:
    after = [one(RESOLUTE, f"ga-{n}", held=True) for n in range(8)]
    two = [one(NOBLE, f"ga-{n}", held=True) for n in range(2)]
    assert not decide(rule(LTS, RESOLUTE), after + two).needs_operator
    assert decide(rule(LTS, RESOLUTE), [*after, *two, one(JAMMY, "ga", held=True)]).needs_operator


def test_what_is_selected_and_not_offered_is_unavailable_image_by_image() -> None:
    assert decide(rule(LTS, RESOLUTE, NOBLE), [one(NOBLE, "ga", held=False)]).unavailable == {RESOLUTE}


# Whatever happens.

IMAGES = [RESOLUTE, NOBLE, JAMMY, NOBLE_ARM64]
KERNELS = ["ga-1.04", "hwe-1.04", "ga-1.04-lowlatency"]
_kernels = st.none() | st.frozensets(st.sampled_from(["ga", "hwe", "ga-lowlatency", "*"]), min_size=1)
_meant = st.lists(
    st.one_of(
        st.builds(lambda image, kernels: some(image, *(kernels or ())), st.sampled_from(IMAGES), _kernels),
        st.builds(
            lambda pattern, images, kernels: rule(
                pattern, *(i for i in images if pattern.arch in ("*", i.arch)), kernels=kernels
            ),
            st.sampled_from([LTS, SUPPORTED, Pattern("ubuntu", "lts:2", "*"), Pattern("ubuntu", "*", "arm64")]),
            st.sets(st.sampled_from(IMAGES)),
            _kernels,
        ),
    ),
    max_size=3,
).map(lambda drawn: {wish: images for each in drawn for wish, images in each.items()})


@st.composite
def _products(draw: st.DrawFn) -> list[Product]:
    made = []
    for image, kernel, source in itertools.product(IMAGES, KERNELS, [1, 2]):
        if draw(st.booleans()):
            versions = [
                version(str(n), f"{source}{image.release}{image.arch}{kernel}{n}", held=held, offered=offered)
                for n, (held, offered) in enumerate(draw(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=2)))
            ]
            name = f"{image.release}-{image.arch}-{kernel}"
            made.append(
                replace(
                    product(name, *versions, image=image, source=source, offered=draw(st.booleans())), kernel=kernel
                )
            )
    return made


def withdrawn(products: list[Product], decided: Plan) -> list[Product]:
    return [
        replace(p, versions=tuple(replace(v, held=v.held and v.id not in decided.withdraw) for v in p.versions))
        for p in products
    ]


def carried_out(products: list[Product], decided: Plan) -> list[Product]:
    brought = {entry.version_id for entry in decided.imports}
    return [
        replace(p, versions=tuple(replace(v, held=v.held or v.id in brought) for v in p.versions))
        for p in withdrawn(products, decided)
    ]


def serving(products: list[Product]) -> set[ImageKey]:
    return {p.image for p in products if any(v.held for v in p.versions)}


@examples(max_examples=150, deadline=None, derandomize=True)
@given(_meant, _products())
def test_nothing_selected_and_held_is_withdrawn_without_a_successor(meant: Meant, products: list[Product]) -> None:
    """Whether it is still offered or not."""
    before, after = serving(products), serving(withdrawn(products, decide(meant, products)))
    named_or_meant = {image for images in meant.values() for image in images}
    assert before & named_or_meant <= after, "an image that is selected lost everything"
    for image in before - after:
        left = [
            images
            for wish, images in meant.items()
            if wish.image.release in ("lts", "lts:2", "supported") and wish.image.arch in ("*", image.arch)
        ]
        successors = {each for images in left for each in images if each.arch == image.arch}
        if left:
            assert successors, "the last of its architecture left a rule"
            assert successors <= after, "it left a rule before its successors had come"


@examples(max_examples=100, deadline=None, derandomize=True)
@given(_meant, _products())
def test_carried_out_twice_is_carried_out_once(meant: Meant, products: list[Product]) -> None:
    for _ in range(3):
        products = carried_out(products, decide(meant, products))
    at_rest = decide(meant, products)
    assert carried_out(products, at_rest) == products


@examples(max_examples=100, deadline=None, derandomize=True)
@given(_meant, _products(), st.randoms())
def test_the_order_of_clauses_does_not_matter(meant: Meant, products: list[Product], rng: random.Random) -> None:
    clauses = list(meant.items())
    rng.shuffle(clauses)
    one_way, other_way = decide(meant, products), decide(dict(clauses), products)
    assert (one_way.withdraw, one_way.lost, one_way.imports) == (other_way.withdraw, other_way.lost, other_way.imports)
