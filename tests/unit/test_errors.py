"""The error tree: drawn, coded, worded, and answered with the status its row says."""

import errno
import importlib
import inspect
import json
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import rack
import region
import shared
from region.api import problems
from shared import errors
from shared.errors import BootferryError
from shared.sizes import spoken_size

URL = "https://mirror.example/streams/v1/index.sjson"
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
DIGEST = "3c" * 32

CLASSES = {
    name: found
    for name, found in vars(errors).items()
    if inspect.isclass(found) and issubclass(found, BootferryError) and found.__module__ == errors.__name__
}

EXAMPLES = [
    errors.InvalidValue("name", "a/b", "it must be letters"),
    errors.InvalidDocument(URL, "it is not JSON"),
    errors.Unauthenticated(),
    errors.InvalidToken(),
    errors.TokenSpent(),
    errors.TokenExpired(),
    errors.InvalidRequestSignature("there is none"),
    errors.WrongClock("2026-07-01 12:00:00 UTC", 3600),
    errors.Replayed(7),
    errors.BarredKey(),
    errors.NotFound("rack", "rack-1"),
    errors.TooManyAttempts(30),
    errors.NameNotFound(URL, "mirror.example"),
    errors.ConnectionRefused(URL),
    errors.ConnectionLost(URL, "Connection reset by peer"),
    errors.TlsFailed(URL, "self-signed certificate"),
    errors.TimedOut(URL, 30.0),
    errors.AddressForbidden(URL, "169.254.169.254"),
    errors.HttpStatus(URL, 404),
    errors.HttpStatus(URL, 404, "There is no rack rack-1.", "not_found"),
    errors.HttpStatus(URL, 503, "Down for maintenance"),
    errors.RedirectRefused(URL, "http://mirror.example/", "it leads from https to http"),
    errors.ProxyFailed(URL, "403 Forbidden"),
    errors.TooLarge(URL, 64 * 1024 * 1024),
    errors.TooSlow(URL, 1024),
    errors.WrongSize(URL, 7, 8),
    errors.WrongDigest(URL, DIGEST, "ab" * 32),
    errors.Unsigned(URL),
    errors.UnknownSigner(URL, "D94AA3F0EFE21092", ["7FF3F408476CF100"]),
    errors.UnknownSigner(URL, "D94AA3F0EFE21092", []),
    errors.BadSignature(URL, "the text was changed"),
    errors.SignatureExpired(URL, "the key has expired"),
    errors.SignatureKeyRevoked(URL, "the key was revoked"),
    errors.SignatureWeak(URL, "its hash can be forged"),
    errors.InvalidKeyring("it is empty"),
    errors.KeyTooSmall("4A3CE3CD565D7EB5C810E2B97FF3F408476CF100", 1024, 2048),
    errors.KeyAlgorithmRefused("4A3CE3CD565D7EB5C810E2B97FF3F408476CF100", "DSA"),
    errors.KeyExpired("4A3CE3CD565D7EB5C810E2B97FF3F408476CF100", NOON),
    errors.KeyRevoked("4A3CE3CD565D7EB5C810E2B97FF3F408476CF100"),
    errors.WrongRegion(DIGEST, "ab" * 32),
    errors.ForkedManifest(1_789_000_000, 7),
    errors.CannotMove("https://new.example:5240", "https://old.example:5240", "nothing answers"),
    errors.WaitsForConfirmation((1_789_000_000, 8), ["ubuntu:noble:amd64"], 1),
    errors.TooOld(URL, NOON, NOON),
    errors.TooNew(URL, NOON, NOON),
    errors.MixedDocuments(URL, NOON, NOON),
    errors.NoRoom("/var/lib/bootferry", 10**9, 10**6),
    errors.NoInodes("/var/lib/bootferry", 10**9, 10**6),
    errors.DiskFailed("/var/lib/bootferry", OSError(5, "Input/output error")),
    errors.DiskFailed("/var/lib/bootferry", OSError("it is gone")),
    errors.Unavailable("The database does not answer"),
]
# The others' sentence is the caller's, or their subclasses'.
WORDED = {name for name, found in CLASSES.items() if found.__init__ is not BootferryError.__init__} - {"FetchError"}


def named(error: BootferryError) -> str:
    return type(error).__name__


def test_every_class_with_words_of_its_own_has_an_example() -> None:
    assert {named(error) for error in EXAMPLES} == WORDED


@pytest.mark.parametrize("error", EXAMPLES, ids=named)
def test_an_error_is_one_sentence(error: BootferryError) -> None:
    sentence = str(error)
    assert sentence.endswith(".")
    assert not sentence.endswith("..")
    assert "\n" not in sentence
    assert "  " not in sentence
    assert not re.search(r"[.!?] [A-Z]", sentence), "one sentence, not two"
    assert len(sentence) < 250


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_class_has_a_code_of_its_own(name: str) -> None:
    assert "code" in vars(CLASSES[name])
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", CLASSES[name].code)


def test_no_code_is_used_twice() -> None:
    assert [code for code, times in Counter(found.code for found in CLASSES.values()).items() if times > 1] == []


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_class_says_what_it_means(name: str) -> None:
    assert (CLASSES[name].__doc__ or "").strip()
    assert "__doc__" in vars(CLASSES[name])


def test_the_tree_is_drawn_as_it_is() -> None:
    drawn = {"BootferryError": ""}
    above = ""
    for line in (errors.__doc__ or "").splitlines():
        if deeper := re.match(r" {4}│ {3}│ {3}└── (.*)", line):
            first, *others = [word for word in re.findall(r"\w+", deeper[1]) if word in CLASSES]
            drawn |= dict.fromkeys(others, first)
        if not (found := re.match(r" {4}(│? {3})?[├└]── (.*)", line)):
            continue
        first, *others = [word for word in re.findall(r"\w+", found[2]) if word in CLASSES]
        if found[1] is None:
            above = first
            drawn[first] = "BootferryError"
            continue
        # A line beneath names siblings; the words after an explanation are the first one's children.
        is_list = re.match(r"\w+( · \w+)*(\s|$)", found[2])
        siblings = [word for word in re.findall(r"\w+", is_list[0]) if word in CLASSES] if is_list else [first]
        drawn |= dict.fromkeys(siblings, above) | {word: first for word in others if word not in siblings}
    assert drawn == {
        name: found.__bases__[0].__name__ if name != "BootferryError" else "" for name, found in CLASSES.items()
    }


# --- the table of answers -----------------------------------------------------------------------------------------


def every_class() -> list[type[BootferryError]]:
    """The whole tree, of all three packages."""
    for package in (region, rack, shared):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return [kind for kind in _below(BootferryError) if kind.__module__.split(".")[0] in ("region", "rack", "shared")]


def _below(kind: type[BootferryError]) -> Iterator[type[BootferryError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _below(child)


def test_every_class_that_can_be_answered_has_a_row_of_its_own() -> None:
    without = {
        kind.__name__
        for kind in every_class()
        if kind not in problems.ROWS
        and not any(f"{kind.__module__}.".startswith(f"{package}.") for package in problems.NEVER_ANSWERED)
    }
    assert without == set()


def test_only_the_root_is_a_fault_of_ours() -> None:
    assert [kind.__name__ for kind, row in problems.ROWS.items() if row.status == 500] == ["BootferryError"]


def test_no_code_is_answered_with_two_statuses() -> None:
    by_code: dict[str, set[int]] = {}
    for kind in every_class():
        by_code.setdefault(kind.code, set()).add(int(problems.row_of(kind).status))
    assert {code: found for code, found in by_code.items() if len(found) > 1} == {}


def test_the_operating_page_says_of_each_code_what_its_row_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    table = page.partition("\n| code |")[2].partition("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .* \|$", table, re.MULTILINE))
    assert {kind.code: told.get(kind.code) for kind in problems.ROWS} == {
        kind.code: row.means for kind, row in problems.ROWS.items()
    }


@pytest.mark.parametrize("error", EXAMPLES, ids=named)
def test_an_error_is_answered_with_its_code_sentence_and_status(error: BootferryError) -> None:
    answer = problems.answer(error, jitter=lambda: 0.5)
    body = json.loads(bytes(answer.body))
    assert answer.status_code == problems.ROWS[type(error)].status
    assert (body["status"], body["code"], body["detail"]) == (answer.status_code, error.code, str(error))
    assert set(body) == set(problems.Problem.model_fields)
    assert ("Retry-After" in answer.headers) == (answer.status_code in (429, 503))


@pytest.mark.parametrize(
    ("error", "least"),
    [
        (errors.Unavailable("The database does not answer"), 5),
        (errors.TooManyAttempts(30), 30),
        (errors.DiskFailed("/srv", OSError(errno.EIO, "Input/output error")), 60),
    ],
    ids=named,
)
def test_clients_are_told_to_return_at_different_times(error: BootferryError, least: int) -> None:
    waits = [int(problems.answer(error, jitter=lambda: at).headers["Retry-After"]) for at in (0.0, 0.5, 1.0)]  # noqa: B023
    assert waits == [least, least + round(least * 0.5), least * 2]


# --- words from outside -------------------------------------------------------------------------------------------


ODD = ["", ".", "...", "It ended.", "two\nlines", "a\x00b\x1b[2J", "a\ud800", " ", "x" * 5000, "100 %s {0} {x}"]


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_a_sentence_stays_one_whatever_words_it_is_made_of(odd: str) -> None:
    made = [
        errors.InvalidValue(odd, odd, odd),
        errors.InvalidDocument(odd, odd),
        errors.InvalidRequestSignature(odd),
        errors.Forbidden(odd),
        errors.NotFound(odd, odd),
        errors.FetchError(odd, odd),
        errors.NameNotFound(odd, odd),
        errors.ConnectionLost(odd, odd),
        errors.TlsFailed(odd, odd),
        errors.HttpStatus(odd, 404, odd, odd),
        errors.RedirectRefused(odd, odd, odd),
        errors.ProxyFailed(odd, odd),
        errors.UnknownSigner(odd, odd, [odd]),
        errors.BadSignature(odd, odd),
        errors.InvalidKeyring(odd, subject=odd),
        errors.KeyAlgorithmRefused(odd, odd),
        errors.TooOld(odd, odd, odd),
        errors.DiskFailed(odd, OSError(odd)),
        errors.Unavailable(odd),
        errors.InvalidConfiguration(odd),
    ]
    for error in made:
        assert str(error).isprintable(), named(error)
        assert str(error).endswith("."), named(error)
        assert not str(error).endswith(".."), named(error)
        assert not str(error).startswith(" "), named(error)


def test_nobody_says_of_a_noun_that_it_is_unavailable() -> None:
    """The sentence begins with what happened, so that it has a verb of its own."""
    verb = re.compile(r"\b(is|are|has|does|do|cannot|was|took)\b")
    root = Path(__file__).parents[2]
    raised = [
        (path.name, found)
        for package in ("region", "rack", "shared")
        for path in sorted((root / package).rglob("*.py"))
        for found in re.findall(r"raise Unavailable\(\s*f?\"([^\"]*)\"", path.read_text())
    ]
    assert len(raised) > 5
    assert [(name, found) for name, found in raised if not verb.search(found)] == []


def test_who_is_busy_is_not_at_the_wrong_address() -> None:
    for status in (429, 500, 503):
        assert str(errors.HttpStatus(URL, status)) == (
            f"{URL} answered {status}; it is busy, or broken: try again later."
        )


@pytest.mark.parametrize(
    ("detail", "sentence"),
    [
        pytest.param("", f"{URL} answered 404; check the URL.", id="none"),
        pytest.param("Gone", f"{URL} answered 404: Gone.", id="without-a-full-stop"),
        pytest.param("It is gone.", f"{URL} answered 404: It is gone.", id="with-one"),
        pytest.param("Gone.\n2026-07-01 All is well.", None, id="with-a-line-of-its-own"),
        pytest.param("Gone \x1b[2J", None, id="with-a-control-sequence"),
    ],
)
def test_the_other_sides_words_fit_into_the_sentence(detail: str, sentence: str | None) -> None:
    said = str(errors.HttpStatus(URL, 404, detail))
    assert said.isprintable()
    assert said.endswith(".")
    assert sentence is None or said == sentence


@pytest.mark.parametrize(
    ("value", "begins"),
    [
        pytest.param("a/b", "'a/b' is not a name: ", id="text"),
        pytest.param("a\nb\x1b", r"'a\nb\x1b' is not a name: ", id="control-characters"),
        pytest.param("a\ud800", r"'a\ud800' is not a name: ", id="surrogate"),
        pytest.param(None, "None is not a name: ", id="nothing"),
        pytest.param("x" * 1000, f"'{'x' * 116}... is not a name: ", id="long"),
        pytest.param(["x" * 1000], f"['{'x' * 115}... is not a name: ", id="long-list"),
    ],
)
def test_a_refused_value_is_shown_safely_and_in_part(value: object, begins: str) -> None:
    error = errors.InvalidValue("name", value, "it must be letters")
    assert str(error) == f"{begins}it must be letters."
    assert str(error).isprintable()
    assert (error.what, error.value, error.why) == ("name", value, "it must be letters")


@pytest.mark.parametrize(
    ("what", "article"),
    [("name", "a"), ("SHA-256 digest", "a"), ("URL", "a"), ("enrolment token", "an"), ("operator token", "an")],
)
def test_the_article_fits(what: str, article: str) -> None:
    assert f"'' is not {article} {what}: " in str(errors.InvalidValue(what, "", "it is empty"))


@pytest.mark.parametrize(
    ("size", "spoken"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1024, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (999_999, "1.0 MB"),
        (64 * 1024 * 1024, "67.1 MB"),
        (122_600_000_000, "122.6 GB"),
        (10**12, "1.0 TB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_spoken_size(size: int, spoken: str) -> None:
    assert spoken_size(size) == spoken
