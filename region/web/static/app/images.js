// The Images page.
import { Bootloaders } from "./bootloaders.js";
import { OtherChoice, takeBack, UbuntuChoice } from "./choice.js";
import { Conditions } from "./conditions.js";
import * as facts from "./facts.js";
import { lazy } from "./lazy.js";
import { namer } from "./names.js";
import { spoken, tellProblem } from "./notice.js";
import { meter } from "./rates.js";
import { Said } from "./said.js";
import { ANY, bySource, draft, imageId, wish } from "./selection.js";
import { may } from "./session.js";
import { chosen, CUSTOM, shownOf, SourceChoice } from "./source.js";
import { SyncStrip, SyncSwitch } from "./sync.js";
import { ImageTable, rowsOf } from "./table.js";
import { now } from "./time.js";
import { Unsaved } from "./unsaved.js";
import { fullTitle, IMAGE } from "./words.js";
import { html, useEffect, useMemo, useRef, useSignal } from "../vendor/preact.js";

const NOTHING = [];
const ofOneImage = () => import("./image.js");
const DeleteDialog = lazy(ofOneImage, "DeleteDialog");
const ImageRacks = lazy(ofOneImage, "ImageRacks");
const PinDialog = lazy(ofOneImage, "PinDialog");
const SaveDialog = lazy(() => import("./save.js"), "SaveDialog");
const WithdrawDialog = lazy(() => import("./lapse.js"), "WithdrawDialog");
const SHOWN = [
  facts.images,
  facts.selections,
  facts.sources,
  facts.unvouched,
  facts.sync,
  facts.imports,
  facts.racks,
  facts.bootloaders,
  facts.settings,
  facts.storage,
];

export function ImagesPage() {
  const read = may("admin") ? [...SHOWN, facts.operatorTokens] : SHOWN;
  facts.useFacts(...read);
  const dialog = useSignal(null);
  const images = facts.images.value.value;
  const saved = facts.selections.value.value;
  const sources = facts.sources.value.value;
  const { current } = facts.imports.value.value || { current: null };
  const { progress, rate } = useProgress(current);
  useSpokenStatuses(images);
  const close = () => {
    dialog.value = null;
  };
  const shown = sources && shownOf(sources);
  const offers = shown ? facts.offersOf(shown) : null;
  useEffect(() => (offers ? offers.hold() : undefined), [offers]);
  // All at once, and then for good: what comes in bit by bit makes the page jump.
  const isComplete = useRef(false);
  isComplete.current ||= [...read, ...(offers ? [offers] : [])].every(isSettled);
  const ready = isComplete.current && images && saved && sources;
  return html`<header class="page-head">
      <div class="page-head-inner">
        <h1 tabindex="-1">Images</h1>
        <${SyncSwitch} />
      </div>
      <div class="page-head-inner"><${SyncStrip} rate=${rate} /></div>
    </header>
    <div class="page-body">
      ${ready
        ? html`<${Conditions}
              onWithdraw=${() => {
                dialog.value = { name: "withdraw" };
              }}
            />
            <${Sections}
              images=${images}
              saved=${saved.items}
              sources=${sources}
              shown=${shown}
              offers=${(offers && offers.value.value) || NOTHING}
              progress=${progress}
              open=${(name, row) => {
                dialog.value = { name, row };
              }}
            />`
        : html`<${Waiting} />`}
    </div>
    ${ready && dialog.value && html`<${OpenDialog} dialog=${dialog.value} images=${images} onClose=${close} />`}`;
}

function isSettled(fact) {
  return fact.value.value !== null || fact.problem.value !== null;
}

function Waiting() {
  const problem = facts.images.problem.value || facts.selections.problem.value || facts.sources.problem.value;
  return html`<p class="waiting" role="status">${problem ? problem.message : "Reading what the region has…"}</p>`;
}

/** Everything that is chosen and listed: Ubuntu, the other images, bootloaders; and what is not saved of it. */
function Sections({ images, saved, sources, shown, offers, progress, open }) {
  const rows = useMemo(() => rowsOf(images, saved, draft.value, offers), [images, saved, draft.value, offers]);
  const ubuntu = rows.filter((row) => row.os === "ubuntu");
  const others = rows.filter((row) => row.os !== "ubuntu");
  const added = rows.reduce((sum, row) => sum + (row.change === "added" ? row.size || 0 : 0), 0);
  const sourceNames = sources.length > 1 ? new Map(sources.map((one) => [one.id, one.name])) : null;
  const isAlone = sources.length < 2 || chosen.value === CUSTOM;
  const movable = isAlone ? NOTHING : movableTo(shown, images, saved, offers);
  const canSelect = may("operator") && shown !== null;
  // With one source alone, nothing needs to name it: it wins.
  const from = sources.length > 1 ? shown : ANY;
  const act = (name, row) => {
    if (name === "undo") takeBack(row.id);
    else if (name === "update") {
      ofOneImage()
        .then(({ updateNow }) => updateNow(row.id, nameOfRow(row)))
        .catch((problem) => tellProblem("It was not started.", problem));
    } else open(name, row);
  };
  const table = (label, some, empty) => html`<${ImageTable}
    label=${label}
    rows=${some}
    sourceNames=${sourceNames}
    progress=${progress}
    now=${now.value}
    may=${may("operator")}
    act=${act}
    empty=${empty}
  />`;
  const choice = { offers, known: images, saved, from, now: now.value, disabled: !canSelect };

  return html`<section aria-labelledby="ubuntu">
      <h2 id="ubuntu">Ubuntu</h2>
      <p class="intro">
        Select the releases and architectures to import and keep in sync. Every image is verified before it is served,
        and machines boot from the racks.
      </p>
      <${SourceChoice}
        sources=${sources}
        movable=${movable.length}
        onMove=${() => {
          let next = draft.value;
          for (const id of movable) next = wish(next, saved, id, from);
          draft.value = next;
        }}
      />
      <${UbuntuChoice} ...${choice} />
      <${Said} saved=${saved} nameOf=${namer()} />
      ${table(
        "Ubuntu images",
        ubuntu,
        saved.length === 0 ? "Nothing is selected. Tick a release and an architecture above." : "No Ubuntu image is selected.",
      )}
    </section>
    <section aria-labelledby="others">
      <h2 id="others">Other images</h2>
      <${OtherChoice} ...${choice} />
      ${table("Other images", others, "None is selected.")}
    </section>
    <${Bootloaders} />
    <${Unsaved} bytes=${added} onReview=${() => open("save")} />`;
}

/** Ids of selected images that are on offer there too, and that come from, or name, another source. */
function movableTo(shown, images, saved, offers) {
  const offered = new Set(offers.map(imageId));
  const sourceOf = new Map(images.map((image) => [image.id, image.source_id]));
  const isThere = (id, wanted) => wanted.has(shown) || (wanted.has(ANY) && [shown, null].includes(sourceOf.get(id)));
  return [...bySource(saved)]
    .filter(([id, wanted]) => offered.has(id) && !isThere(id, wanted) && !draft.value.has(id))
    .map(([id]) => id);
}

function nameOfRow(row) {
  return `${fullTitle(row.os, row.title)} ${row.arch}`;
}

function OpenDialog({ dialog: { name, row }, images, onClose }) {
  const nameOf = namer();
  if (name === "withdraw") {
    return html`<${WithdrawDialog} onClose=${onClose} />`;
  }
  if (name === "save") return html`<${SaveDialog} nameOf=${nameOf} onClose=${onClose} />`;
  // What the dialog shows is the image as it is now; one that went meanwhile takes its dialog along.
  const image = images.find((one) => one.id === row.id);
  const given = { image, name: nameOfRow(row), onClose };
  if (!image) return null;
  if (name === "racks") return html`<${ImageRacks} id=${row.id} ...${given} />`;
  if (name === "pin") return html`<${PinDialog} ...${given} />`;
  return html`<${DeleteDialog} nameOf=${nameOf} ...${given} />`;
}

/** How far the import is with each image and as a whole, with rates. */
function useProgress(current) {
  const rates = useRef(null);
  rates.current ||= meter();
  return useMemo(() => {
    const progress = new Map();
    if (!current) return { progress, rate: null };
    const at = performance.now();
    for (const [id, one] of Object.entries(current.images)) {
      progress.set(id, {
        done: one.bytes_done,
        total: one.bytes_total,
        rate: rates.current.note(`${current.id} ${id}`, one.bytes_done, at),
      });
    }
    return { progress, rate: rates.current.note(String(current.id), current.bytes_done, at) };
  }, [current]);
}

/** Say aloud what people who see the page see: that an image arrived where it should, or failed. */
function useSpokenStatuses(images) {
  const before = useRef(null);
  useEffect(() => {
    if (!images) return;
    const statuses = new Map(images.map((image) => [image.id, image.status]));
    if (before.current) {
      const said = images.filter(
        (image) =>
          ["synced", "stored", "failed"].includes(image.status) &&
          before.current.has(image.id) &&
          before.current.get(image.id) !== image.status,
      );
      if (said.length) {
        spoken.value = said
          .map((image) => `${fullTitle(image.os, image.title)} ${image.arch}: ${IMAGE[image.status].word}.`)
          .join(" ");
      }
    }
    before.current = statuses;
  }, [images]);
}
