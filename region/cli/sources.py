"""`sources`, `source …`: where images come from."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from region.cli import output, suggest, words
from region.cli.exits import Failed, Misused
from region.cli.imports import wait_for
from region.cli.lists import Listing, lists
from region.cli.names import pick, shown
from region.cli.offers import columns
from region.cli.output import Cell, Column, Format
from region.cli.plan import DryRun, effects_and_bytes
from region.cli.session import Awaited, Output, Wait, Yes, call, confirm
from shared.regular_file import read_regular

if TYPE_CHECKING:
    from region.cli.client import Api

PROBE_TIMEOUT_S = 300.0
MAX_KEYRING_BYTES = 1_000_000
MAX_NAME = 64
MOST_NAMED = 5
"""So many offers that lapse are named; `-o json` names them all."""

Item = Mapping[str, Any]
SourceArgument = Annotated[
    str, typer.Argument(metavar="SOURCE", autocompletion=suggest.sources, help="Its name or number.")
]
Keyring = Annotated[
    Path | None, typer.Option("--keyring", metavar="FILE", help="The public keys that sign it, a file on this machine.")
]
KeyringPath = Annotated[str | None, typer.Option(metavar="PATH", help="Or a file on the region, read at every sync.")]
Key = Annotated[
    str | None, typer.Option("--key", metavar="NAME", help="Or a keyring that Bootferry ships, such as ubuntu.")
]
Held = Annotated[
    str | None,
    typer.Option("--held", metavar="keep|withdraw", help="What becomes of held images nobody vouches for afterwards."),
]
Unsigned = Annotated[bool, typer.Option("--unsigned", help="Take it without any signature: trust whoever answers.")]
Priority = Annotated[
    int | None, typer.Option(min=-1_000_000, max=1_000_000, help="The greater wins an image of several.")
]
Proxy = Annotated[str | None, typer.Option(metavar="URL", help="The proxy to reach it through.")]
CaBundle = Annotated[str | None, typer.Option(metavar="PATH", help="Certificates to trust, a file on the region.")]

StaleAfter = Annotated[
    int | None,
    typer.Option(
        "--stale-after-days", min=0, max=3650, metavar="DAYS", help="Warn when its documents are older; 0 never does."
    ),
]


@lists()
def list_all() -> Listing:
    """List the sources, the one that wins first."""

    async def read(api: "Api") -> list[dict[str, Any]]:
        return await api.list("sources")

    now = datetime.now(UTC)
    return Listing(
        call(read),
        [
            Column("SOURCE", lambda item: str(item.get("id")), right=True, key=lambda item: item.get("id")),
            Column("NAME", lambda item: str(item.get("name"))),
            Column("URL", lambda item: str(item.get("url"))),
            Column("SIGNED", lambda item: Cell("no", "yellow") if item.get("unsigned") else "yes"),
            Column(
                "PRIORITY", lambda item: str(item.get("priority")), right=True, key=lambda item: item.get("priority")
            ),
            Column("LAST READ", lambda item: _reading(item, now), key=lambda item: item.get("last_read_at")),
            Column("PROXY", lambda item: str(item.get("proxy") or "-"), wide=True),
            Column("SIGNED BY", lambda item: " ".join(map(str, item.get("key_ids") or ["-"])), wide=True),
        ],
        empty="There is no source; add one with: bootferry source add",
        name=lambda item: str(item.get("name")),
        notes=_errors,
    )


def _errors(found: Sequence[Item]) -> Iterator[str]:
    for item in found:
        if item.get("error"):
            yield f"\n{item.get('name')}: {item['error']}"
        if item.get("warning"):
            yield f"\n{item['warning']}"


def show(source: SourceArgument, chosen: Output = Format.TABLE) -> None:
    """Show one source."""

    async def read(api: "Api") -> Item:
        return pick(await api.list("sources"), "source", source)

    _show(chosen, call(read))


def probe(
    url: Annotated[str, typer.Argument(metavar="URL", help="The mirror's root.")],
    keyring: Keyring = None,
    keyring_path: KeyringPath = None,
    key: Key = None,
    unsigned: Unsigned = False,
    proxy: Proxy = None,
    ca_bundle: CaBundle = None,
    chosen: Output = Format.TABLE,
) -> None:
    """Try a source: show what it offers, or precisely why not. Nothing is saved."""
    _require_trust(keyring, keyring_path, key, unsigned)
    name = (urlsplit(url).hostname or "probe")[:MAX_NAME]
    fields = _fields(name, url, keyring, keyring_path, key, unsigned, None, proxy, ca_bundle)

    async def ask(api: "Api") -> Item:
        return (await api.ask("POST", "sources", "probe", body=fields)).body

    found = call(ask, read_timeout_s=PROBE_TIMEOUT_S)
    if output.show_data(chosen, found):
        return
    images = found.get("images", [])
    if images:
        output.table(images, columns(datetime.now(UTC)))
    vouched = _vouched(found.get("signed_by", []), unsigned)
    output.say(f"\n{found.get('url', url)} offers {words.counted(len(images), 'image')}; it is {vouched}.")
    for sentence in found.get("skipped", []):
        output.note(f"Skipped: {sentence}")


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="How it is to be called.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="The mirror's root.")],
    keyring: Keyring = None,
    keyring_path: KeyringPath = None,
    key: Key = None,
    unsigned: Unsigned = False,
    priority: Priority = None,
    proxy: Proxy = None,
    ca_bundle: CaBundle = None,
    stale_after: StaleAfter = None,
    probed: Annotated[bool, typer.Option("--probe/--no-probe", help="Try it first; add it only if it works.")] = True,
    chosen: Output = Format.TABLE,
) -> None:
    """Add a source. Unless --priority says otherwise, those there are win over it."""
    _require_trust(keyring, keyring_path, key, unsigned)
    fields = _fields(name, url, keyring, keyring_path, key, unsigned, priority, proxy, ca_bundle, stale_after)

    async def create(api: "Api") -> Item:
        if probed:
            await api.ask("POST", "sources", "probe", body=fields)
        return (await api.ask("POST", "sources", body=fields)).body

    found = call(create, read_timeout_s=PROBE_TIMEOUT_S)
    if not output.show_data(chosen, found):
        output.say(f"Added {found.get('name')} as source {found.get('id')}; the region reads it now.")


def update(
    source: SourceArgument,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="How it is to be called.")] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="The mirror's root.")] = None,
    keyring: Keyring = None,
    keyring_path: KeyringPath = None,
    key: Key = None,
    unsigned: Unsigned = False,
    priority: Priority = None,
    proxy: Annotated[str | None, typer.Option(metavar="URL", help="The proxy to reach it through; '' is none.")] = None,
    ca_bundle: Annotated[
        str | None, typer.Option(metavar="PATH", help="Certificates to trust, a file on the region; '' is none.")
    ] = None,
    stale_after: StaleAfter = None,
    held: Held = None,
    confirm_unsigned: Annotated[
        bool, typer.Option("--confirm-unsigned", help="Yes, a signed source is to become an unsigned one.")
    ] = False,
    dry_run: DryRun = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Change a source; what is left out stays. A new keyring replaces the old one.

    With --dry-run: show what would lapse, because nobody would vouch for it any longer.
    """
    fields = _fields(name, url, keyring, keyring_path, key, unsigned, priority, proxy, ca_bundle, stale_after)
    if not fields:
        raise Misused("Nothing to change was named; see: bootferry source update --help")

    if confirm_unsigned:
        fields["confirm_unsigned"] = True

    async def change(api: "Api") -> Item:
        found = pick(await api.list("sources"), "source", source)
        return (await api.ask("PATCH", "sources", str(found["id"]), body=fields, query=_query(held, dry_run))).body

    changed = call(change)
    _show(chosen, changed)
    if chosen is Format.TABLE:
        _tell_lapse(changed, dry_run)


def read(source: SourceArgument, wait: Wait = Awaited.NOTHING, chosen: Output = Format.TABLE) -> None:
    """Read what a source offers now, and import nothing."""

    async def start(api: "Api") -> tuple[Item, Item]:
        found = pick(await api.list("sources"), "source", source)
        return found, (await api.ask("POST", "sources", str(found["id"]), "read")).body

    found, run = call(start)
    if wait:
        wait_for(run["id"], Awaited.IMPORT, chosen)
    elif not output.show_data(chosen, run):
        number = run["id"]
        output.say(f"Import {number} reads {found.get('name')}; see it with: bootferry import show {number}")


def enable(source: SourceArgument, dry_run: DryRun = False, chosen: Output = Format.TABLE) -> None:
    """Read a source again, and take from it what is new."""
    _switch(source, True, dry_run, chosen)


def disable(source: SourceArgument, dry_run: DryRun = False, chosen: Output = Format.TABLE) -> None:
    """Read a source no longer, and take nothing new from it. What is held of it stays."""
    _switch(source, False, dry_run, chosen)


def _switch(source: str, enabled: bool, dry_run: bool, chosen: Format) -> None:
    async def change(api: "Api") -> Item:
        found = pick(await api.list("sources"), "source", source)
        query = _query(None, dry_run)
        return (await api.ask("PATCH", "sources", str(found["id"]), body={"enabled": enabled}, query=query)).body

    changed = call(change)
    if output.show_data(chosen, changed):
        return
    output.draw_lines(effects_and_bytes(changed))
    if dry_run:
        output.note("This was a dry run; nothing was changed.")
    elif enabled:
        output.say(f"Enabled {changed.get('name')}; the region reads it now.")
    else:
        output.say(f"Disabled {changed.get('name')}: nothing new comes from it, and what is held of it stays.")


def accept_older(source: SourceArgument, yes: Yes = False, chosen: Output = Format.TABLE) -> None:
    """Accept the source's present documents once, although older than those accepted before.

    For a mirror that went back on purpose, or when a document from the future was accepted. Signatures still count.
    """

    async def look(api: "Api") -> Item:
        return pick(await api.list("sources"), "source", source)

    async def accept(api: "Api") -> Item:
        return (await api.ask("POST", "sources", str(found["id"]), "accept-older")).body

    found = call(look)
    confirm(
        f"The next reading of {found.get('name')} takes the documents that are there, however old: images may go back"
        " to older versions. Go on?",
        yes=yes,
    )
    accepted = call(accept)
    if not output.show_data(chosen, accepted):
        output.say(f"The region reads {accepted.get('name')} now and takes documents older than those accepted before.")


def remove(
    source: SourceArgument,
    held: Held = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Remove a source. Selections that name it mean whichever source wins after that.

    If bootloaders come from it, they come from no source after this, until you choose another: bootferry settings.
    """

    async def look(api: "Api") -> tuple[Item, Item]:
        found = pick(await api.list("sources"), "source", source)
        return found, (await api.ask("DELETE", "sources", str(found["id"]), query=_query(held, True))).body

    async def forget(api: "Api") -> Item:
        return (await api.ask("DELETE", "sources", str(found["id"]), query=_query(held, False))).body

    found, lapse = call(look)
    if dry_run:
        if not output.show_data(chosen, lapse):
            _tell_lapse(lapse, dry_run)
        return
    if lapse.get("held") and held is None:
        raise Failed(
            "held_undecided",
            f"Nobody would vouch for {words.counted(len(lapse['held']), 'held version')} of {found.get('name')} after"
            " this; say what becomes of them: --held keep to go on serving them, or --held withdraw.",
        )
    if chosen is Format.TABLE:
        _tell_lapse(lapse, dry_run, before=True)
    confirm(f"The source {found.get('name')} and its keyring will be removed. Go on?", yes=yes)
    lapse = call(forget)
    if not output.show_data(chosen, lapse):
        output.say(f"The source {found.get('name')} was removed.")


@lists(watch=False)
def unvouched(
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Withdraw all of it: machines lose it.")] = False,
    yes: Yes = False,
) -> Listing:
    """List what is held and nobody vouches for any longer, with who signed it."""

    async def look(api: "Api") -> list[dict[str, Any]]:
        return await api.list("unvouched")

    async def act(api: "Api") -> Item:
        return (await api.ask("DELETE", "unvouched")).body

    found = call(look)
    if withdraw and found:
        confirm(f"{words.counted(len(found), 'version')} will be withdrawn from every rack. Go on?", yes=yes)
        found = list(call(act).get("items", []))
    return Listing(
        found,
        [
            Column("IMAGE", lambda item: shown(str(item.get("image")))),
            Column("VERSION", lambda item: str(item.get("version"))),
            Column("PLACE", lambda item: str(item.get("place"))),
            Column("SOURCE", lambda item: str(item.get("source"))),
            Column("SIGNED BY", lambda item: words.listed(item.get("vouched_by") or ["nobody known"])),
        ],
        empty="Everything that is held is vouched for.",
        says="\nAll of this was withdrawn." if withdraw and found else "",
    )


def _query(held: str | None, dry_run: bool) -> dict[str, str]:
    return ({"held": held} if held else {}) | ({"dry_run": "true"} if dry_run else {})


def _tell_lapse(lapse: Item, dry_run: bool, *, before: bool = False) -> None:
    """What lapses by a change, what of it is held, and what the import after it does; `before` the change or after."""
    images, held = list(map(shown, lapse.get("lapses", []))), list(lapse.get("held", []))
    coming = dry_run or before
    if images:
        more = [f"{len(images) - MOST_NAMED} others"] if len(images) > MOST_NAMED + 1 else images[MOST_NAMED:]
        told = words.listed([*images[:MOST_NAMED], *more])
        output.say(f"Nobody vouches for these offers {'then' if coming else 'now'}: {told}.")
    if held:
        where = "" if coming else "; see them with: bootferry unvouched"
        output.say(f"{words.counted(len(held), 'version')} of these {'are' if len(held) > 1 else 'is'} held{where}.")
    output.draw_lines(effects_and_bytes(lapse))
    if dry_run:
        output.note("This was a dry run; nothing was changed.")


def _require_trust(keyring: Path | None, keyring_path: str | None, key: str | None, unsigned: bool) -> None:
    """Raises Misused unless one way to trust the source was named."""
    if [keyring is not None, keyring_path is not None, key is not None, unsigned].count(True) != 1:
        raise Misused(
            "Say who signs it, in one way: --key NAME, --keyring FILE, --keyring-path PATH, or --unsigned for nobody."
        )


def _fields(
    name: str | None,
    url: str | None,
    keyring: Path | None,
    keyring_path: str | None,
    key: str | None,
    unsigned: bool,
    priority: int | None,
    proxy: str | None,
    ca_bundle: str | None,
    stale_after: int | None = None,
) -> dict[str, Any]:
    """What was given on the command line, as the API takes it. Raises Misused."""
    given = {
        "name": name,
        "url": url,
        "keyring": None if keyring is None else _read_keyring(keyring),
        "keyring_path": keyring_path,
        "keyring_name": key,
        "unsigned": unsigned or None,
        "priority": priority,
        "proxy": proxy,
        "ca_bundle": ca_bundle,
        "stale_after_days": stale_after,
    }
    return {field: value for field, value in given.items() if value is not None}


def _read_keyring(path: Path) -> str:
    """The keyring as the API takes it: armour as it is, binary as base64. Raises Misused."""
    try:
        found = read_regular(path, MAX_KEYRING_BYTES)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no path"
        raise Misused(f"The keyring {path} cannot be read: {why}.") from error
    if len(found) > MAX_KEYRING_BYTES:
        raise Misused(f"The keyring {path} is larger than {words.size(MAX_KEYRING_BYTES)}.")
    if found.isascii():
        return found.decode()
    return base64.b64encode(found).decode()


def _show(chosen: Format, item: Item) -> None:
    now = datetime.now(UTC)
    skipped = item.get("skipped") or []
    vouched = _vouched(item.get("key_ids", []), bool(item.get("unsigned")))
    output.show_facts(
        chosen,
        item,
        [
            ("Source", str(item.get("id"))),
            ("Name", str(item.get("name"))),
            ("URL", str(item.get("url"))),
            ("Trust", Cell(vouched, "yellow" if item.get("unsigned") else "")),
            ("Keyring", str(item.get("keyring_path") or item.get("keyring_name") or "")),
            ("Read", "" if item.get("current", True) else "not yet under the trust it has now"),
            (
                "Enabled",
                "" if item.get("enabled", True) else Cell("no: it is not read, nothing new comes from it", "yellow"),
            ),
            ("Priority", str(item.get("priority"))),
            ("Proxy", str(item.get("proxy") or "")),
            ("CA bundle", str(item.get("ca_bundle") or "")),
            ("Last read", words.when(item.get("last_read_at"), now)),
            ("Documents of", words.when(item.get("documents_updated_at"), now)),
            ("Error", Cell(words.slashed(str(item.get("error") or "")), "red")),
            ("Warning", Cell(str(item.get("warning") or ""), "yellow")),
            ("Skipped", "\n".join(map(str, skipped))),
        ],
    )


def _vouched(key_ids: list[str], unsigned: bool) -> str:
    if unsigned:
        return "not signed: whoever answers at its address is trusted"
    if not key_ids:
        return "signed by keys that cannot be read at the moment"
    return f"signed by {' or '.join(map(str, key_ids))}"


def _reading(item: Item, now: datetime) -> Cell | str:
    read = words.ago(item.get("last_read_at"), now)
    if not item.get("enabled", True):
        return Cell(f"disabled, read {read}", "dim")
    return Cell(f"failed {read}", "red") if item.get("error") else read
