// The Racks page: each rack, what it shows of what it should, and enrolling another.
import { ActDialog } from "./act.js";
import { Bar } from "./bar.js";
import { get } from "./api.js";
import { useAnswer } from "./answer.js";
import { Confirm, WaitingRacks } from "./confirm.js";
import { Dialog } from "./dialog.js";
import { EnrolDialog, EnrolmentTokens } from "./enrolment.js";
import * as facts from "./facts.js";
import { ago, byName, dateTime, size } from "./format.js";
import { Status } from "./icons.js";
import { namer } from "./names.js";
import { Notice } from "./notice.js";
import { may } from "./session.js";
import { StateTable } from "./states.js";
import { now } from "./time.js";
import { RACK } from "./words.js";
import { html, useSignal } from "../vendor/preact.js";

const COLUMNS = ["Rack", "State", "Last seen", "Shows", "Left", "Free", "Version", "Actions"];

export function RacksPage() {
  facts.useFacts(facts.racks);
  const dialog = useSignal(null);
  const racks = facts.racks.value.value;
  const problem = facts.racks.problem.value;
  const close = () => {
    dialog.value = null;
  };
  const enrol = () => {
    dialog.value = { name: "enrol" };
  };
  const enrolButton = html`<button type="button" class="primary" disabled=${!may("admin")} onClick=${enrol}>
    Enrol a rack
  </button>`;
  return html`<header class="page-head">
      <div class="page-head-inner"><h1 tabindex="-1">Racks</h1>${enrolButton}</div>
    </header>
    <div class="page-body">
      ${problem && html`<${Notice} kind="negative" title="This may be out of date.">${problem.message}<//>`}
      ${!racks && !problem && html`<p class="waiting" role="status">Reading…</p>`}
      ${racks &&
      html`<${WaitingRacks} racks=${racks}>
        ${may("operator") &&
        html`${" "}<button
            type="button"
            class="link"
            onClick=${() => {
              dialog.value = { name: "confirm" };
            }}
          >
            Let racks drop them…
          </button>`}
      <//>`}
      ${racks && racks.length === 0 && html`<${NoRack} />`}
      ${racks && racks.length > 0 &&
      html`<p class="intro">
          Racks fetch from the region every 5 minutes, and at once when they hear of something new. One that missed three
          polls is unreachable.
        </p>
        <table class="stacked racks" role="table" aria-label="Racks">
          <thead role="rowgroup">
            <tr role="row">
              ${COLUMNS.map((title) => html`<th key=${title} role="columnheader" scope="col">${title}</th>`)}
            </tr>
          </thead>
          <tbody role="rowgroup">
            ${[...racks].sort((a, b) => byName(a.name, b.name)).map(
              (rack) => html`<${Row}
                key=${rack.id}
                rack=${rack}
                onLacks=${() => {
                  dialog.value = { name: "lacks", rack };
                }}
                onRemove=${() => {
                  dialog.value = { name: "remove", rack };
                }}
              />`,
            )}
          </tbody>
        </table>`}
      ${may("admin") && html`<${EnrolmentTokens} />`}
    </div>
    ${dialog.value && dialog.value.name === "confirm" && html`<${Confirm} racks=${racks} onClose=${close} />`}
    ${dialog.value && dialog.value.name === "enrol" && html`<${EnrolDialog} onClose=${close} />`}
    ${dialog.value && dialog.value.name === "lacks" &&
    html`<${LacksDialog} rack=${dialog.value.rack} onClose=${close} />`}
    ${dialog.value && dialog.value.name === "remove" &&
    html`<${RemoveDialog} rack=${dialog.value.rack} onClose=${close} />`}`;
}

function NoRack() {
  return html`<div class="blank">
    <h2>No rack yet</h2>
    <p>
      Machines boot from racks. Enrol one: the region gives you a token and the command to run on the rack, and the rack
      fetches every image by itself.
    </p>
    ${!may("admin") && html`<p class="muted">An administrator can enrol racks.</p>`}
  </div>`;
}

function Row({ rack, onLacks, onRemove }) {
  const shown = rack.images_total - rack.images_pending;
  return html`<tr role="row" data-rack=${rack.name}>
    <th role="rowheader" scope="row">${rack.name}<span class="below">${rack.address || "no address yet"}</span></th>
    <td role="cell" data-label="State" class="cell-status">
      <${Status} entry=${RACK[rack.status]} />
      ${rack.last_error && html`<span class="below error">${rack.last_error}</span>`}
      ${rack.status === "ahead" && html`<span class="below error">${RACK.ahead.means}</span>`}
    </td>
    <td role="cell" data-label="Last seen" title=${rack.last_seen_at ? dateTime(rack.last_seen_at) : null}>
      ${rack.last_seen_at ? ago(rack.last_seen_at, now.value) : "never"}
    </td>
    <td role="cell" data-label="Shows">
      <span>${shown} of ${rack.images_total} <span class="muted">with bootloaders</span></span>
      <${Bar} label=${`Images on ${rack.name}`} value=${shown} max=${rack.images_total || 1} />
      ${rack.images_pending > 0 &&
      html`<button type="button" class="small" aria-label=${`What it lacks: ${rack.name}`} onClick=${onLacks}>
        What it lacks
      </button>`}
    </td>
    <td role="cell" data-label="Left">${rack.bytes_left ? size(rack.bytes_left) : "–"}</td>
    <td role="cell" data-label="Free">${rack.last_seen_at ? size(rack.bytes_free) : "–"}</td>
    <td role="cell" data-label="Version">
      ${rack.version || "–"}
      <span class="below" title=${rack.knows.serial ? `of epoch ${rack.knows.epoch}` : null}>
        ${rack.knows.serial ? `knows manifest ${rack.knows.serial}` : "knows no manifest yet"}
      </span>
    </td>
    <td role="cell" class="cell-actions">
      ${may("admin") &&
      html`<button type="button" class="small" aria-label=${`Remove ${rack.name}`} onClick=${onRemove}>Remove</button>`}
    </td>
  </tr>`;
}

/** The images that a rack does not show as published, and why. */
function LacksDialog({ rack, onClose }) {
  facts.useFacts(facts.images);
  const { answer, problem } = useAnswer(() => get(`/racks/${rack.id}`), facts.racks.value.value);
  const nameOf = namer();
  return html`<${Dialog}
    wide
    title=${`What ${rack.name} lacks`}
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Close</button>`}
  >
    ${problem && html`<${Notice} kind="negative" title="The rack could not be read.">${problem.message}<//>`}
    ${!answer && !problem && html`<p class="muted">Reading…</p>`}
    ${answer && answer.pending.length === 0 && html`<p>It shows everything as the region publishes it.</p>`}
    ${answer && answer.pending.length > 0 &&
    html`<${StateTable} heading="Image" rows=${answer.pending.map((one) => ({ ...one, name: nameOf(one.image) }))} />`}
  <//>`;
}

function RemoveDialog({ rack, onClose }) {
  return html`<${ActDialog}
    title=${`Remove ${rack.name}?`}
    of=${`/racks/${rack.id}`}
    method="DELETE"
    path=${`/racks/${rack.id}`}
    button="Remove rack"
    done=${`${rack.name} is removed.`}
    follows="The region answers it no longer."
    refused="Not removed."
    fact=${facts.racks}
    onClose=${onClose}
  >
    <p>
      The region refuses it from then on. What the rack holds it goes on serving to machines; stop it there. To come
      back it must be enrolled again.
    </p>
  <//>`;
}
