// The Activity page: imports and who did what, newest first.
import { call, get } from "./api.js";
import * as facts from "./facts.js";
import { ago, byName, dateTime, size, span } from "./format.js";
import { Status } from "./icons.js";
import { Notice } from "./notice.js";
import { now } from "./time.js";
import { IMPORT, TRIGGER } from "./words.js";
import { html, useEffect, useRef, useSignal } from "../vendor/preact.js";

const PAGE = 50;
const SHOWN = [
  ["all", "Everything"],
  ["imports", "Imports"],
  ["changes", "Changes"],
];

/**
 * One list of both, newest first. Of a list that goes on, nothing older than its last loaded entry can be placed yet,
 * so what lies before that is held back. Pure.
 */
export function merged(imports, changes) {
  const floor = Math.max(
    ...[imports, changes].map(({ entries, next }) =>
      next && entries.length ? Date.parse(entries.at(-1).at) : -Infinity,
    ),
  );
  return [...imports.entries, ...changes.entries]
    .filter((entry) => Date.parse(entry.at) >= floor)
    .sort((a, b) => Date.parse(b.at) - Date.parse(a.at));
}

/** A list that grows by pages, and whose newest part is read again when `topic` (a fact) changes. */
function usePages(path, shape, again) {
  const state = useSignal({ entries: [], next: null, isRead: false });
  const problem = useSignal(null);
  const timer = useRef(0);
  const read = async (cursor) => {
    clearTimeout(timer.current);
    try {
      const page = await get(`${path}?limit=${PAGE}${cursor ? `&cursor=${cursor}` : ""}`);
      const fresh = page.items.map(shape);
      const ids = new Set(fresh.map((entry) => entry.key));
      const before = state.value.entries.filter((entry) => !ids.has(entry.key));
      state.value = cursor
        ? { entries: [...before, ...fresh], next: page.next, isRead: true }
        : { entries: [...fresh, ...before], next: before.length ? state.value.next : page.next, isRead: true };
      problem.value = null;
    } catch (error) {
      problem.value = error;
      if (error.retryAfterS) timer.current = setTimeout(() => read(cursor), error.retryAfterS * 1000);
    }
  };
  useEffect(() => {
    read(null);
    return () => clearTimeout(timer.current);
  }, [again]);
  return { ...state.value, problem: problem.value, more: () => read(state.value.next) };
}

const asImport = (run) => ({ key: `import ${run.id}`, kind: "import", at: run.requested_at, run });
const asChange = (change) => ({ key: `change ${change.id}`, kind: "change", at: change.at, change });

export function ActivityPage() {
  facts.useFacts(facts.activity, facts.imports);
  const imports = usePages("/imports", asImport, facts.imports.value.value);
  const changes = usePages("/activity", asChange, facts.activity.value.value);
  const filter = useSignal("all");
  const nothing = { entries: [], next: null };
  const wantsImports = filter.value !== "changes";
  const wantsChanges = filter.value !== "imports";
  const list = merged(wantsImports ? imports : nothing, wantsChanges ? changes : nothing);
  const isRead = imports.isRead && changes.isRead;
  const isMore = (wantsImports && imports.next) || (wantsChanges && changes.next);
  const problem = imports.problem || changes.problem;
  const more = () => {
    if (wantsImports && imports.next) imports.more();
    if (wantsChanges && changes.next) changes.more();
  };
  return html`<header class="page-head">
      <div class="page-head-inner">
        <h1 tabindex="-1">Activity</h1>
        <fieldset class="radios filter">
          <legend class="unseen">Show</legend>
          ${SHOWN.map(
            ([value, words]) => html`<label key=${value}>
              <input
                type="radio"
                name="shown"
                checked=${filter.value === value}
                onChange=${() => {
                  filter.value = value;
                }}
              />
              ${words}
            </label>`,
          )}
        </fieldset>
      </div>
    </header>
    <div class="page-body">
      ${problem && html`<${Notice} kind="negative" title="This may be out of date.">${problem.message}<//>`}
      ${!isRead && !problem && html`<p class="waiting" role="status">Reading…</p>`}
      ${isRead && list.length === 0 && html`<p class="blank">Nothing has happened yet.</p>`}
      <ol class="activity">
        ${isRead &&
        list.map((entry) =>
          entry.kind === "import"
            ? html`<${Import} key=${entry.key} run=${entry.run} />`
            : html`<${Change} key=${entry.key} change=${entry.change} />`,
        )}
      </ol>
      ${isRead && isMore && html`<button type="button" onClick=${more}>Show older</button>`}
    </div>`;
}

function When({ at }) {
  return html`<time datetime=${at} title=${dateTime(at)}>${ago(at, now.value)}</time>`;
}

function Import({ run }) {
  const detail = useSignal(null);
  const problem = useSignal(null);
  const open = async (event) => {
    if (!event.currentTarget.open) return;
    try {
      detail.value = (await call("GET", `/imports/${run.id}`)).data;
    } catch (error) {
      problem.value = error;
    }
  };
  return html`<li class="entry" data-import=${run.id}>
    <${When} at=${run.requested_at} />
    <div>
      <p class="entry-what">
        <b>${TRIGGER[run.trigger]}</b>
        ${run.trigger !== "schedule" && html`${" "}by ${run.requested_by}`}
        ${run.scope && html`<span class="muted"> ${run.scope.length ? `for ${run.scope.join(", ")}` : "for no image: it only reads"}</span>`}
      </p>
      <p class="entry-outcome"><${Status} entry=${IMPORT[run.state]} /> <span class="muted">${figures(run)}</span></p>
      ${run.error && html`<p class=${run.state === "failed" ? "error" : ""}>${run.error}</p>`}
      ${run.retry_at && html`<p class="muted">Tries again at ${dateTime(run.retry_at)}.</p>`}
      <details onToggle=${open}>
        <summary>Images of import ${run.id}</summary>
        ${problem.value && html`<p class="error">${problem.value.message}</p>`}
        ${detail.value && html`<${ImportImages} images=${detail.value.images} />`}
      </details>
    </div>
  </li>`;
}

function figures(run) {
  const said = [];
  if (run.bytes_total) said.push(`${size(run.bytes_done)} of ${size(run.bytes_total)} fetched`);
  else if (run.state === "succeeded") said.push("everything was up to date");
  if (run.started_at && run.finished_at) {
    said.push(`took ${span((Date.parse(run.finished_at) - Date.parse(run.started_at)) / 1000)}`);
  }
  return said.join(", ");
}

function ImportImages({ images }) {
  const found = Object.entries(images).sort(([a], [b]) => byName(a, b));
  if (found.length === 0) return html`<p class="muted">It had nothing to fetch.</p>`;
  return html`<ul class="entry-images">
    ${found.map(
      ([id, one]) => html`<li key=${id}>
        <code>${id}</code> ${size(one.bytes_done)} of ${size(one.bytes_total)}
        ${one.error && html`<span class="below error">${one.error}</span>`}
      </li>`,
    )}
  </ul>`;
}

function Change({ change }) {
  const hasDetail = change.before || change.after;
  return html`<li class="entry" data-action=${change.action}>
    <${When} at=${change.at} />
    <div>
      <p class="entry-what"><b>${change.who}</b>${change.address && html` <span class="muted">from ${change.address}</span>`}</p>
      <p>${change.sentence}</p>
      ${hasDetail &&
      html`<details>
        <summary>Before and after</summary>
        <dl class="entry-change">
          <dt>Before</dt><dd><${Shown} value=${change.before} /></dd>
          <dt>After</dt><dd><${Shown} value=${change.after} /></dd>
        </dl>
      </details>`}
    </div>
  </li>`;
}

/** A recorded value, as lines of name and value. */
function Shown({ value }) {
  const lines = Object.entries(value || {});
  if (lines.length === 0) return "nothing";
  return html`<ul>
    ${lines.map(
      ([name, one]) => html`<li key=${name}>
        ${name}: <code>${Array.isArray(one) ? listed(one) : typeof one === "object" ? JSON.stringify(one) : String(one)}</code>
      </li>`,
    )}
  </ul>`;
}

function listed(values) {
  if (values.length === 0) return "none";
  return values.map((one) => (typeof one === "object" ? Object.values(one).join(":") : one)).join(", ");
}
