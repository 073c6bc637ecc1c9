"""What the page decides without a region: ticks, drafts, rows, figures. The modules run in the browser as shipped."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Page

from region.api import WEB

OFFERED = [
    {"os": "ubuntu", "release": release, "arch": arch}
    for release, arches in (("noble", ("amd64", "arm64")), ("jammy", ("amd64", "arm64")), ("oracular", ("amd64",)))
    for arch in arches
]


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """An empty page that may import the modules."""

    async def blank(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>blank</title>", content_type="text/html")

    application = web.Application()
    application.router.add_get("/", blank)
    application.router.add_static("/static", WEB / "static")
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    made = await browser.new_page(locale="en-GB", timezone_id="UTC")
    await made.goto(f"http://{host}:{port}/")
    yield made
    await made.close()
    await runner.cleanup()


async def call(page: Page, module: str, expression: str, *arguments: Any) -> Any:
    """The value of `expression`, where `m` is the module and `a` the arguments."""
    return await page.evaluate(
        f"async a => {{ const m = await import('/static/app/{module}.js'); return {expression}; }}", list(arguments)
    )


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        pytest.param("m.size(0)", "0 bytes", id="nothing"),
        pytest.param("m.size(999)", "999 bytes", id="bytes"),
        pytest.param("m.size(495700000)", "495.7 MB", id="megabytes, decimal"),
        pytest.param("m.size(2.5e15)", "2500.0 TB", id="never beyond TB"),
        pytest.param("m.sizeOf(120300000, 495700000)", "120.3 of 495.7 MB", id="the unit once"),
        pytest.param("m.sizeOf(999000, 495700000)", "999.0 kB of 495.7 MB", id="two units"),
        pytest.param("m.percent(1, 3)", 33, id="percent, rounded down"),
        pytest.param("m.percent(0, 0)", 0, id="percent of nothing"),
        pytest.param("m.percent(999, 1000)", 99, id="never done too early"),
        pytest.param("m.span(59)", "59 seconds", id="seconds"),
        pytest.param("m.span(3590)", "1 hour", id="nearly an hour"),
        pytest.param("m.span(200000)", "2 days", id="days"),
        pytest.param("m.ago('2026-07-23T12:00:00Z', Date.parse('2026-07-23T12:03:00Z'))", "3 minutes ago", id="ago"),
        pytest.param("m.ago('2026-07-23T12:00:09Z', Date.parse('2026-07-23T12:00:00Z'))", "just now", id="skew"),
        pytest.param("m.month('2026-07-09')", "Jul 2026", id="month"),
        pytest.param(
            "['6.6', '26.04 LTS', '24.10', '8'].sort(m.newestFirst).join()", "26.04 LTS,24.10,8,6.6", id="order"
        ),
    ],
)
async def test_figures(page: Page, expression: str, expected: object) -> None:
    assert await call(page, "format", expression) == expected


@pytest.mark.parametrize(
    ("protocol", "hostname", "tls", "expected"),
    [
        pytest.param("http:", "region.example.org", False, "clear", id="in the clear"),
        pytest.param("http:", "127.evil.example", False, "clear", id="a name like an address"),
        pytest.param("http:", "localhost", False, None, id="this machine"),
        pytest.param("http:", "127.0.0.1", False, None, id="this machine's address"),
        pytest.param("http:", "[::1]", False, None, id="this machine by IPv6"),
        pytest.param("https:", "region.example.org", True, None, id="inside TLS"),
        pytest.param("https:", "region.example.org", False, "proxy", id="a proxy that is not believed"),
        pytest.param("https:", "region.example.org", None, None, id="not known yet"),
    ],
)
async def test_what_is_wrong_with_the_way_a_page_came(
    page: Page, protocol: str, hostname: str, tls: bool | None, expected: str | None
) -> None:
    found = await call(page, "clear", "m.unsafe({ protocol: a[0], hostname: a[1] }, a[2])", protocol, hostname, tls)
    assert found == expected


NOBLE = {"os": "ubuntu", "release": "noble", "arch": "amd64"}
JAMMY = {"os": "ubuntu", "release": "jammy", "arch": "amd64"}
LOOSE = "{ releases: new Set(a[2]), arches: new Set(a[3]) }"


@pytest.mark.parametrize(
    ("wanted", "releases", "arches", "expected"),
    [
        pytest.param([NOBLE], [], [], {"amd64": "checked", "arm64": ""}, id="one image"),
        pytest.param([], ["noble"], [], {"amd64": "", "arm64": ""}, id="a release alone"),
        pytest.param([], [], ["arm64"], {"amd64": "", "arm64": "checked"}, id="an architecture alone"),
        pytest.param(
            [NOBLE, JAMMY, NOBLE | {"arch": "arm64"}], [], [], {"amd64": "checked", "arm64": "partly"}, id="some of two"
        ),
        pytest.param([], ["oracular"], [], {"amd64": "", "arm64": "disabled"}, id="the release lacks it"),
        pytest.param([NOBLE], ["oracular"], [], {"amd64": "partly", "arm64": ""}, id="one of two lacks it"),
    ],
)
async def test_boxes(
    page: Page, wanted: list[Any], releases: list[str], arches: list[str], expected: dict[str, str]
) -> None:
    found = await call(
        page,
        "ticks",
        f"Object.fromEntries([...m.boxes(a[0], a[1], {LOOSE}).arches].map(([name, box]) =>"
        " [name, ['checked', 'partly', 'disabled'].filter(state => box[state]).join()]))",
        OFFERED,
        wanted,
        releases,
        arches,
    )
    assert found == expected


@pytest.mark.parametrize(
    ("call_text", "wanted", "added", "removed"),
    [
        pytest.param("toggleRelease('noble', true", [], [], [], id="no architecture yet"),
        pytest.param("toggleRelease('jammy', true", [NOBLE], ["jammy:amd64"], [], id="as the others"),
        pytest.param("toggleRelease('noble', false", [NOBLE, JAMMY], [], ["noble:amd64"], id="unticked"),
        pytest.param("toggleArch('arm64', true", [NOBLE, JAMMY], ["noble:arm64", "jammy:arm64"], [], id="for all"),
        pytest.param("toggleArch('amd64', false", [NOBLE, JAMMY], [], ["noble:amd64", "jammy:amd64"], id="for none"),
    ],
)
async def test_toggles(page: Page, call_text: str, wanted: list[Any], added: list[str], removed: list[str]) -> None:
    found = await call(
        page,
        "ticks",
        "(done => [done.add, done.remove].map(list => list.map(one => `${one.release}:${one.arch}`)))"
        f"(m.{call_text}, a[0], a[1], {LOOSE}))",
        OFFERED,
        wanted,
        [],
        [],
    )
    assert found == [added, removed]


SAVED = [NOBLE | {"id": 1, "source_id": 1, "created_at": ""}, JAMMY | {"id": 2, "source_id": 1, "created_at": ""}]


@pytest.mark.parametrize(
    ("wishes", "draft", "whole"),
    [
        pytest.param([], {}, ["noble 1", "jammy 1"], id="nothing ticked"),
        pytest.param([["ubuntu:noble:amd64", None]], {"ubuntu:noble:amd64": None}, ["jammy 1"], id="given up"),
        pytest.param(
            [["ubuntu:noble:amd64", None], ["ubuntu:noble:amd64", 1]], {}, ["noble 1", "jammy 1"], id="taken back"
        ),
        pytest.param(
            [["ubuntu:noble:amd64", 2]], {"ubuntu:noble:amd64": 2}, ["jammy 1", "noble 2"], id="another source"
        ),
        pytest.param(
            [["ubuntu:focal:amd64", 1]], {"ubuntu:focal:amd64": 1}, ["noble 1", "jammy 1", "focal 1"], id="one more"
        ),
        pytest.param(
            [["ubuntu:focal:amd64", "any"]],
            {"ubuntu:focal:amd64": "any"},
            ["noble 1", "jammy 1", "focal null"],
            id="whichever wins",
        ),
        pytest.param(
            [["ubuntu:noble:amd64", "any"]],
            {"ubuntu:noble:amd64": "any"},
            ["jammy 1", "noble null"],
            id="no longer from one source alone",
        ),
        pytest.param(
            [["ubuntu:focal:amd64", 1], ["ubuntu:focal:amd64", None]], {}, ["noble 1", "jammy 1"], id="unticked"
        ),
    ],
)
async def test_drafts(page: Page, wishes: list[Any], draft: dict[str, Any], whole: list[str]) -> None:
    found = await call(
        page,
        "selection",
        "(draft => [Object.fromEntries(draft), m.whole(draft, a[0]).map(one => `${one.release} ${one.source_id}`)])"
        "(a[1].reduce((draft, [id, source]) => m.wish(draft, a[0], id, source), new Map()))",
        SAVED,
        wishes,
    )
    assert found == [draft, whole]


RULE = {
    "id": 3,
    "os": "ubuntu",
    "release": "lts:2",
    "arch": "*",
    "source_id": None,
    "kernels": ["ga"],
    "labels": None,
    "images": ["ubuntu:noble:amd64", "ubuntu:resolute:amd64"],
    "created_at": "",
}
SOME = JAMMY | {
    "id": 2, "source_id": 1, "kernels": ["ga", "hwe"], "labels": ["stable"], "images": ["ubuntu:jammy:amd64"]
}  # fmt: skip


@pytest.mark.parametrize(
    ("wishes", "whole"),
    [
        pytest.param([], ["lts:2/* null ga", "jammy/amd64 1 ga,hwe"], id="nothing ticked"),
        pytest.param([["ubuntu:noble:amd64", None]], ["lts:2/* null ga", "jammy/amd64 1 ga,hwe"], id="against a rule"),
        pytest.param([["ubuntu:jammy:amd64", None]], ["lts:2/* null ga"], id="given up beside a rule"),
        pytest.param([["ubuntu:jammy:amd64", 2]], ["lts:2/* null ga", "jammy/amd64 2 ga,hwe"], id="another source"),
    ],
)
async def test_rules_and_kernels_are_sent_back_as_they_were_said(
    page: Page, wishes: list[Any], whole: list[str]
) -> None:
    found = await call(
        page,
        "selection",
        "m.whole(a[1].reduce((draft, [id, source]) => m.wish(draft, a[0], id, source), new Map()), a[0])"
        ".map(one => `${one.release}/${one.arch} ${one.source_id} ${one.kernels}`)",
        [RULE, SOME],
        wishes,
    )
    assert found == whole


async def test_what_a_rule_means_is_wanted(page: Page) -> None:
    found = await call(
        page,
        "selection",
        "[[...m.bySource(a[0]).keys()].sort(), [...m.byRule(a[0])], a[0].map(m.isRule)]",
        [RULE, SOME],
    )
    assert found == [
        ["ubuntu:jammy:amd64", "ubuntu:noble:amd64", "ubuntu:resolute:amd64"],
        ["ubuntu:noble:amd64", "ubuntu:resolute:amd64"],
        [True, False],
    ]


async def test_a_draft_that_others_have_fulfilled_is_done(page: Page) -> None:
    found = await call(
        page,
        "selection",
        "[...m.unfulfilled(new Map([['ubuntu:noble:amd64', 1], ['ubuntu:focal:amd64', 1]]), a[0]).keys()]",
        SAVED,
    )
    assert found == ["ubuntu:focal:amd64"]


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        pytest.param({}, ["noble null"], id="as it is"),
        pytest.param({"ubuntu:noble:amd64": "any"}, ["noble null"], id="the same wish"),
        pytest.param({"ubuntu:noble:amd64": 2}, ["noble 2"], id="from one source"),
    ],
)
async def test_a_selection_that_names_no_source_stays_so(
    page: Page, draft: dict[str, Any], expected: list[str]
) -> None:
    saved = [NOBLE | {"id": 1, "source_id": None, "created_at": ""}]
    found = await call(
        page,
        "selection",
        "m.whole(m.unfulfilled(new Map(Object.entries(a[1])), a[0]), a[0])"
        ".map(one => `${one.release} ${one.source_id}`)",
        saved,
        draft,
    )
    assert found == expected


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        pytest.param(["ubuntu:noble:amd64"], "1 image", id="one"),
        pytest.param(["ubuntu:noble:amd64", "ubuntu:noble:amd64"], "1 image", id="two kernels of one"),
        pytest.param(["ubuntu:noble:amd64", "bootloader:uefi:amd64"], "1 image and 1 bootloader", id="both"),
        pytest.param(["bootloader:uefi:amd64", "bootloader:pxe:amd64"], "2 bootloaders", id="bootloaders"),
    ],
)
async def test_what_nobody_vouches_for_is_counted_as_people_count(page: Page, held: list[str], expected: str) -> None:
    assert await call(page, "held", "m.counted(m.idsOf(a[0]))", [{"image": one} for one in held]) == expected


async def test_signed_sources_come_before_unsigned_ones(page: Page) -> None:
    sources = [{"name": "a", "unsigned": True}, {"name": "b", "unsigned": False}, {"name": "c", "unsigned": False}]
    assert await call(page, "source", "m.ranked(a[0]).map(one => one.name)", sources) == ["b", "c", "a"]


async def test_a_timeline_shows_nothing_that_a_longer_list_may_still_precede(page: Page) -> None:
    found = await call(
        page,
        "activity",
        "m.merged({ entries: [{ key: 'i2', at: a[0] }, { key: 'i1', at: a[2] }], next: null },"
        " { entries: [{ key: 'c9', at: a[1] }], next: '9' }).map(entry => entry.key)",
        "2026-07-23T12:00:00Z",
        "2026-07-23T11:00:00Z",
        "2026-07-23T10:00:00Z",
    )
    assert found == ["i2", "c9"]


async def test_a_rate_needs_two_readings_and_forgets_old_ones(page: Page) -> None:
    found = await call(
        page,
        "rates",
        "(meter => [[0, 0], [1000, 1000], [1000, 1100], [3000, 2000], [3000, 20000], [100, 21000]]"
        ".map(([bytes, at]) => meter.note('x', bytes, at)))(m.meter())",
    )
    assert found == [None, 1000, 1000, 1400, None, None]


async def test_a_fact_is_not_read_again_before_a_busy_region_said(page: Page) -> None:
    """The region names a topic again and again meanwhile; nobody asks it for more before its time is over."""
    read = await page.evaluate(
        """async () => {
          const { fact } = await import("/static/app/facts.js");
          const { Problem } = await import("/static/app/api.js");
          const asked = [];
          const began = performance.now();
          const one = fact(async () => {
            asked.push(performance.now() - began);
            if (asked.length === 1) throw new Problem(503, {}, 1);
            return "read";
          }, { restMs: 10 });
          const release = one.hold();
          const words = setInterval(one.changed, 20);
          await new Promise((resolve) => setTimeout(resolve, 700));
          const meanwhile = asked.length;
          await new Promise((resolve) => setTimeout(resolve, 600));
          clearInterval(words);
          release();
          return { meanwhile, second: asked[1], value: one.value.value, problem: one.problem.value };
        }"""
    )
    assert (read["meanwhile"], read["value"], read["problem"]) == (1, "read", None)
    assert read["second"] >= 990


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        pytest.param([], None, id="none"),
        pytest.param([("admin", None), ("admin", "2026-07-02")], None, id="one never expires"),
        pytest.param(
            [("admin", "2026-07-02"), ("admin", "2026-07-14")], "2026-07-14", id="the one that is good longest"
        ),
        pytest.param([("admin", "2026-07-02"), ("admin", "2026-07-16")], None, id="not for two weeks yet"),
        pytest.param([("admin", "2026-06-30")], None, id="expired: nobody can be told"),
        pytest.param([("admin", "2026-07-10"), ("operator", None)], "2026-07-10", id="others are no administrators"),
    ],
)
async def test_the_last_administrators_token_that_expires_soon(
    page: Page, tokens: list[tuple[str, str | None]], expected: str | None
) -> None:
    given = [{"role": role, "expires_at": expires} for role, expires in tokens]
    found = await call(page, "conditions", "m.expiring(a[0], Date.parse('2026-07-01'))", given)
    assert (found and found["expires_at"]) == expected


async def test_enrolment_tokens_that_still_let_a_rack_in(page: Page) -> None:
    given = [
        {"id": name, "uses_left": uses, "expires_at": expires, "created_at": made}
        for name, uses, expires, made in (
            ("older", 1, "2026-07-02", "2026-06-01"),
            ("newer", 2, "2026-07-02", "2026-06-02"),
            ("spent", 0, "2026-07-02", "2026-06-03"),
            ("expired", 1, "2026-07-01", "2026-06-04"),
        )
    ]
    found = await call(page, "enrolment", "m.usable(a[0], Date.parse('2026-07-01')).map((one) => one.id)", given)
    assert found == ["newer", "older"]
