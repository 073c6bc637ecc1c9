// The table of images: what is held or wanted, and beside it what is ticked and not saved.
import { Bar } from "./bar.js";
import { ago, newestFirst, byName, percent, size, sizeOf, span } from "./format.js";
import { Status, ToolIcon } from "./icons.js";
import { ANY, bySource, drafted, imageId, isWanted, parseId } from "./selection.js";
import { DRAFT, fullTitle, IMAGE, signers } from "./words.js";
import { html } from "../vendor/preact.js";

/**
 * One row for each image of the region and each newly ticked one, Ubuntu's newest release first. Pure.
 * A row: { id, os, release, arch, title, size, change ("added", "removed", "moved" or null), sourceId, image or null }.
 */
export function rowsOf(images, saved, draft, offers) {
  const wanted = bySource(saved);
  const rows = new Map();
  for (const image of images) {
    const change = drafted(draft, wanted, image.id);
    rows.set(image.id, {
      ...parseId(image.id),
      id: image.id,
      title: image.title,
      size: image.size_bytes,
      change: image.selected || change === "added" ? change : null,
      sourceId: named(draft.get(image.id)) || image.source_id,
      image,
    });
  }
  const offered = new Map(offers.map((offer) => [imageId(offer), offer]));
  for (const id of new Set([...wanted.keys(), ...draft.keys()])) {
    if (rows.has(id) || !isWanted(draft, wanted, id)) continue;
    const offer = offered.get(id);
    const parsed = parseId(id);
    rows.set(id, {
      ...parsed,
      id,
      title: offer ? offer.title : parsed.release,
      size: offer ? offer.size_bytes : null,
      change: drafted(draft, wanted, id) || "added",
      sourceId: named(draft.get(id)),
      image: null,
    });
  }
  return [...rows.values()].sort(
    (a, b) => byName(a.os, b.os) || newestFirst(a.title, b.title) || byName(a.arch, b.arch),
  );
}

/** The source a wish names; null for whichever wins. */
function named(from) {
  return from && from !== ANY ? from : null;
}

const COLUMNS = ["Release", "Architecture", "Size", "Status", "Racks", "Version", "Actions"];

/** The table. `act(name, row)` is called for the row's buttons; `progress`: image id -> { done, total, rate }. */
export function ImageTable({ label, rows, sourceNames, progress, now, may, act, empty }) {
  return html`<table class="images" role="table" aria-label=${label}>
    <thead role="rowgroup">
      <tr role="row">
        ${COLUMNS.map(
          (name) => html`<th key=${name} role="columnheader" scope="col" class=${`column-${name.toLowerCase()}`}>
            ${name}
          </th>`,
        )}
      </tr>
    </thead>
    <tbody role="rowgroup">
      ${rows.length === 0 &&
      html`<tr role="row" class="row-empty"><td role="cell" colspan=${COLUMNS.length}>${empty}</td></tr>`}
      ${rows.map(
        (row) => html`<${Row}
          key=${row.id}
          row=${row}
          source=${sourceNames ? sourceNames.get(row.sourceId) : null}
          progress=${progress.get(row.id)}
          now=${now}
          may=${may}
          act=${act}
        />`,
      )}
    </tbody>
  </table>`;
}

function Row({ row, source, progress, now, may, act }) {
  const { image, change } = row;
  const name = `${fullTitle(row.os, row.title)} ${row.arch}`;
  const title = row.os === "ubuntu" ? row.title : fullTitle(row.os, row.title);
  return html`<tr role="row" class=${change ? `row-${change}` : ""} data-image=${row.id}>
    <th role="rowheader" scope="row">
      ${title}${source && html`<span class="below">from ${source}</span>`}
    </th>
    <td role="cell" data-label="Architecture">${row.arch}</td>
    <td role="cell" data-label="Size">${row.size ? size(row.size) : "–"}</td>
    <td role="cell" data-label="Status" class="cell-status">
      ${change
        ? html`<${Status} entry=${DRAFT[change]} />`
        : html`<${ImageStatus} image=${image} progress=${progress} name=${name} />`}
      ${image && !image.vouched && html`<${Unvouched} image=${image} />`}
    </td>
    <td role="cell" data-label="Racks">
      ${image && change !== "added" && html`<${Racks} image=${image} name=${name} onOpen=${() => act("racks", row)} />`}
    </td>
    <td role="cell" data-label="Version">${image && html`<${Version} image=${image} now=${now} />`}</td>
    <td role="cell" class="cell-actions">
      ${may && html`<${Actions} row=${row} name=${name} act=${act} />`}
    </td>
  </tr>`;
}

function ImageStatus({ image, progress, name }) {
  const entry = IMAGE[image.status];
  if (image.status === "downloading") {
    const done = progress ? progress.done : image.bytes_done;
    const total = progress ? progress.total : 0;
    const share = total > 0 ? percent(done, total) : image.progress;
    return html`<${Status} entry=${entry}>${" "}${share}%<//>
      <${Bar} label=${`${name}: downloading`} value=${share} />
      <span class="below">${downloadFigures(done, total, progress && progress.rate)}</span>`;
  }
  if (image.status === "waiting_for_racks") {
    return html`<${Status} entry=${entry} />
      <${Bar} label=${`${name}: racks that have it`} value=${image.racks_synced} max=${image.racks_live || 1} />
      <span class="below">
        ${image.racks_live === 0
          ? "no rack is reachable"
          : `${image.racks_synced} of ${image.racks_live} live racks have all of it`}
      </span>`;
  }
  return html`<${Status} entry=${entry} />
    ${image.error && html`<span class=${`below ${image.status === "failed" ? "error" : ""}`}>${image.error}</span>`}`;
}

/** Beside the status: what is held of the image was signed by somebody who is believed no longer. */
function Unvouched({ image }) {
  const said = `signed by ${signers(image.vouched_by)}`;
  return html`<span class="below error unvouched" title=${image.vouched_by.join("\n")}>
    ${image.status === "unvouched" ? said : `${IMAGE.unvouched.word}: ${said}`}
  </span>`;
}

function downloadFigures(done, total, rate) {
  const parts = [total > 0 ? sizeOf(done, total) : size(done)];
  if (rate) parts.push(`${size(rate)}/s`);
  if (rate && total > done) parts.push(`${span(Math.max(1, (total - done) / rate))} left`);
  return parts.join(" · ");
}

function Racks({ image, name, onOpen }) {
  if (image.racks_total === 0) return html`<span class="muted">no rack</span>`;
  return html`<button
    type="button"
    class="link"
    aria-label=${`${name}: on ${image.racks_synced} of ${image.racks_total} racks; show which`}
    onClick=${onOpen}
  >
    ${image.racks_synced} of ${image.racks_total}
  </button>`;
}

function Version({ image, now }) {
  const below = [];
  if (image.held_version && image.held_version !== image.version) below.push(`serving ${image.held_version}`);
  if (image.updated_at) below.push(`updated ${ago(image.updated_at, now)}`);
  return html`${image.version || "–"}
    ${image.pinned_version && html`${" "}<span class="badge">pinned</span>`}
    ${below.length > 0 && html`<span class="below">${below.join(" · ")}</span>`}`;
}

function Actions({ row, name, act }) {
  const button = (action, label, icon) => html`<button
    key=${action}
    type="button"
    class="tool"
    aria-label=${`${label}: ${name}`}
    title=${label}
    onClick=${() => act(action, row)}
  >
    <${ToolIcon} name=${icon} />
  </button>`;
  if (row.change) return button("undo", row.change === "added" ? "Do not download" : "Undo", "undo");
  if (!row.image || !row.image.selected) return null;
  return html`${button("update", "Update now", "update")}
    ${row.image.pinned_version
      ? button("pin", `Pinned to ${row.image.pinned_version}; change or unpin`, "unpin")
      : button("pin", "Pin a version", "pin")}
    ${button("delete", "Delete", "delete")}`;
}
