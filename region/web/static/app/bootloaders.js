// Bootloaders: read-only, they come by themselves.
import * as facts from "./facts.js";
import { byName, size } from "./format.js";
import { Status } from "./icons.js";
import { firmwareName, IMAGE } from "./words.js";
import { html } from "../vendor/preact.js";

function statusOf(one) {
  if (!one.held) return IMAGE.queued;
  if (one.racks_total === 0) return IMAGE.stored;
  return one.racks_synced === one.racks_total ? IMAGE.synced : IMAGE.waiting_for_racks;
}

/** The one source they come from, which the settings name. */
function ComeFrom() {
  const { bootloader_source_id: id } = facts.settings.value.value || {};
  const source = (facts.sources.value.value || []).find((one) => one.id === id);
  if (source) return html`They come from <b>${source.name}</b>.`;
  if (id === null) return html`No source is chosen for them: <a href="#/settings">choose one in the settings</a>.`;
  return null;
}

export function Bootloaders() {
  const found = facts.bootloaders.value.value || [];
  const sorted = [...found].sort((a, b) => byName(a.type, b.type) || byName(a.arch, b.arch));
  return html`<section aria-labelledby="bootloaders">
    <h2 id="bootloaders">Bootloaders</h2>
    <p class="intro">They come with every import by themselves; there is nothing to select. <${ComeFrom} /></p>
    <table class="stacked bootloaders" role="table" aria-labelledby="bootloaders">
      <thead role="rowgroup">
        <tr role="row">
          ${["Firmware", "Architecture", "Size", "Status", "Racks", "Version"].map(
            (title) => html`<th key=${title} role="columnheader" scope="col">${title}</th>`,
          )}
        </tr>
      </thead>
      <tbody role="rowgroup">
        ${sorted.length === 0 &&
        html`<tr role="row" class="row-empty">
          <td role="cell" colspan="6">None yet: the first import brings them.</td>
        </tr>`}
        ${sorted.map(
          (one) => html`<tr role="row" key=${`${one.os}:${one.type}:${one.arch}`}>
            <th role="rowheader" scope="row">${firmwareName(one.type)}<span class="below">${one.os}</span></th>
            <td role="cell" data-label="Architecture">${one.arch}</td>
            <td role="cell" data-label="Size">${size(one.size_bytes)}</td>
            <td role="cell" data-label="Status"><${Status} entry=${statusOf(one)} /></td>
            <td role="cell" data-label="Racks">
              ${one.racks_total ? `${one.racks_synced} of ${one.racks_total}` : html`<span class="muted">no rack</span>`}
            </td>
            <td role="cell" data-label="Version">${one.version}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </section>`;
}
