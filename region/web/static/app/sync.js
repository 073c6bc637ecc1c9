// The sync of the region: the switch, when it ran and runs, and the import under way.
import { Bar } from "./bar.js";
import { call } from "./api.js";
import * as facts from "./facts.js";
import { ago, dateTime, percent, size, sizeOf, until } from "./format.js";
import { tell, tellProblem } from "./notice.js";
import { may } from "./session.js";
import { now } from "./time.js";
import { html, useSignal } from "../vendor/preact.js";

/** Top right of the Images page. */
export function SyncSwitch() {
  const sync = facts.sync.value.value;
  const wished = useSignal(null); // what was just asked for, until the region has answered
  const toggle = async (event) => {
    const enabled = event.currentTarget.checked;
    wished.value = enabled;
    try {
      const { data, etag } = await call("PATCH", "/sync", { body: { enabled }, ifMatch: sync.etag });
      facts.sync.value.value = { ...data, etag };
    } catch (problem) {
      if (problem.status === 412) facts.sync.load();
      tellProblem("The switch stays as it was.", problem);
    }
    wished.value = null;
  };
  return html`<div class="sync-switch">
    <label for="auto-sync">Automatically sync images</label>
    <input
      id="auto-sync"
      class="switch"
      type="checkbox"
      role="switch"
      checked=${wished.value === null ? !sync || sync.enabled : wished.value}
      disabled=${!sync || !may("operator")}
      aria-describedby="auto-sync-help"
      onChange=${toggle}
    />
    <p class="help" id="auto-sync-help">
      The region syncs with its sources every hour. Racks sync with the region every 5 minutes, which cannot be
      disabled.
    </p>
  </div>`;
}

/** The strip below the heading: last and next sync or the import under way, and the button for either. */
export function SyncStrip({ rate }) {
  const busy = useSignal(false);
  const { current } = facts.imports.value.value || { current: null };
  const doing = (work, refusal) => async () => {
    busy.value = true;
    try {
      await work();
      await facts.imports.load();
    } catch (problem) {
      tellProblem(refusal, problem);
    }
    busy.value = false;
  };
  const start = doing(async () => {
    await call("POST", "/imports");
  }, "The sync did not start.");
  const stop = doing(async () => {
    await call("POST", `/imports/${current.id}/cancel`);
    tell("information", "Stopping.", "What has arrived is kept; the next import goes on from there.");
  }, "The import was not stopped.");
  const allowed = may("operator");
  return html`<div class="sync-strip">
    <div class="sync-said">${current ? html`<${Running} current=${current} rate=${rate} />` : html`<${Idle} />`}</div>
    <div class="sync-buttons">
      ${!allowed ? null : current
        ? html`<button type="button" disabled=${busy.value || current.cancel_requested} onClick=${stop}>
            ${current.cancel_requested ? "Stopping…" : "Stop import"}
          </button>`
        : html`<button
            type="button"
            disabled=${busy.value || !facts.imports.value.value}
            onClick=${start}
          >
            Sync now
          </button>`}
    </div>
  </div>`;
}

function Idle() {
  const sync = facts.sync.value.value;
  if (!sync) return html`<span class="muted">Reading…</span>`;
  const last = facts.lastEnded();
  return html`<dl class="sync-times">
    <div>
      <dt>Last sync</dt>
      <dd title=${sync.last_run_at ? dateTime(sync.last_run_at) : null}>
        ${sync.last_run_at ? ago(sync.last_run_at, now.value) : "never"}
      </dd>
    </div>
    <div>
      <dt>Next sync</dt>
      ${sync.next_run_at
        ? html`<dd title=${dateTime(sync.next_run_at)}>${until(sync.next_run_at, now.value)}</dd>`
        : html`<dd class="caution">when you ask for it: automatic sync is off</dd>`}
    </div>
    ${last && last.retry_at &&
    html`<div>
      <dt>Tries again</dt>
      <dd title=${dateTime(last.retry_at)}>${until(last.retry_at, now.value)}</dd>
    </div>`}
  </dl>`;
}

function Running({ current, rate }) {
  const { bytes_total: total, bytes_done: done } = current;
  if (current.state === "queued" || total === 0) {
    return html`<span>${current.state === "queued" ? "An import is about to begin" : "Importing: reading the sources"}</span>
      <${Bar} label="Import" />`;
  }
  return html`<span>
      Importing ${percent(done, total)}% · ${sizeOf(done, total)}${rate ? ` · ${size(rate)}/s` : ""}
    </span>
    <${Bar} label="Import" value=${done} max=${total} />`;
}
