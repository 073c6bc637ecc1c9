// Choosing where images come from.
import { ago, dateTime, plural } from "./format.js";
import { lazy } from "./lazy.js";
import { ANY } from "./selection.js";
import { may } from "./session.js";
import { now } from "./time.js";
import { keyId } from "./words.js";
import { html, signal, useSignal } from "../vendor/preact.js";

export const CUSTOM = "custom";
const MAX_PRIORITY = 1_000_000;
const SourceForm = lazy(() => import("./mirror.js"), "SourceForm");
const Prefer = lazy(() => import("./lapse.js"), "Prefer");
const RemoveDialog = lazy(() => import("./lapse.js"), "RemoveDialog");
const OlderDialog = lazy(() => import("./lapse.js"), "OlderDialog");

/** What somebody chose: the id of a source, ANY for whichever wins, CUSTOM to add one, or null for nothing yet. */
export const chosen = signal(null);

/** Whose offers are shown: a source's id, ANY for those of whichever wins, or null while there is no source. */
export function shownOf(sources) {
  if (sources.length === 0) return null;
  if (sources.length === 1) return sources[0].id;
  return sources.some((source) => source.id === chosen.value) ? chosen.value : ANY;
}

/** `movable`: how many selected images come from elsewhere; `onMove` asks for taking them from what is shown. */
export function SourceChoice({ sources, movable, onMove }) {
  const editing = useSignal(false);
  const removing = useSignal(null);
  const lettingIn = useSignal(null);
  const isCustom = chosen.value === CUSTOM;
  const shown = isCustom ? null : shownOf(sources);
  const source = sources.find((one) => one.id === shown) || null;
  const inOrder = [...sources].sort((a, b) => a.id - b.id);
  const choose = (value) => () => {
    chosen.value = value;
    editing.value = false;
  };
  return html`<fieldset class="source-choice">
      <legend>Choose source</legend>
      <div class="radios">
        ${sources.length > 1 &&
        html`<label>
          <input type="radio" name="source" checked=${shown === ANY} onChange=${choose(ANY)} />
          Whichever source wins
        </label>`}
        ${inOrder.map(
          (one) => html`<label key=${one.id}>
            <input type="radio" name="source" checked=${source === one} onChange=${choose(one.id)} />
            ${one.name}
          </label>`,
        )}
        <label>
          <input type="radio" name="source" checked=${isCustom} disabled=${!may("admin")} onChange=${choose(CUSTOM)} />
          Custom
        </label>
      </div>
    </fieldset>
    ${isCustom &&
    html`<${SourceForm} sources=${sources} onDone=${(made) => choose(made ? made.id : null)()} />`}
    ${source && editing.value &&
    html`<${SourceForm} key=${source.id} source=${source} sources=${sources} onDone=${choose(source.id)} />`}
    ${source && !editing.value &&
    html`<${SourceLine}
      source=${source}
      sources=${sources}
      onEdit=${() => {
        editing.value = true;
      }}
      onRemove=${() => {
        removing.value = source;
      }}
      onOlder=${() => {
        lettingIn.value = source;
      }}
    />`}
    ${shown === ANY &&
    html`<p class="source-line">
      Each image comes from the source that wins it. The order is ${ranked(sources).map((one) => one.name).join(", then ")}.
    </p>`}
    ${!isCustom && html`<${Unread} sources=${source ? [source] : sources} />`}
    ${removing.value &&
    html`<${RemoveDialog}
      source=${removing.value}
      onClose=${() => {
        removing.value = null;
      }}
      onDone=${() => {
        removing.value = null;
        chosen.value = null;
      }}
    />`}
    ${lettingIn.value &&
    html`<${OlderDialog}
      source=${lettingIn.value}
      onClose=${() => {
        lettingIn.value = null;
      }}
    />`}
    ${shown && movable > 0 && html`<${Movable} source=${source} movable=${movable} onMove=${onMove} />`}`;
}

/** What is shown may be less than there is: a source counts once it was read under the trust it has. */
function Unread({ sources }) {
  const waiting = sources.filter((source) => !source.current && !source.error);
  return waiting.map(
    (source) => html`<p key=${source.id} class="hint" role="status">
      ${source.last_read_at
        ? `${source.name} is not read yet under the trust it has now; nothing new is taken of it until then.`
        : `${source.name} is being read for the first time.`}
    </p>`,
  );
}

function Movable({ source, movable, onMove }) {
  const take = (where) => html`<button type="button" class="link" onClick=${onMove}>Take from ${where} instead</button>`;
  if (!source) {
    return html`<p class="hint">
      ${plural(movable, "selected image")} ${movable === 1 ? "names its source" : "name their source"}.
      ${" "}${take("whichever source wins")}
    </p>`;
  }
  return html`<p class="hint">
    ${plural(movable, "selected image")} that ${source.name} offers too ${movable === 1 ? "comes" : "come"} from another
    source. ${take(source.name)}
  </p>`;
}

function SourceLine({ source, sources, onEdit, onRemove, onOlder }) {
  // No priority makes an unsigned source win over a signed one.
  const [first] = ranked(sources);
  const canRise = first !== source && first.unsigned === source.unsigned;
  return html`<div class="source-line">
    <p>
      <code>${source.url}</code>
      <span class="below">${[signers(source), reading(source), rank(source, sources)].filter(Boolean).join(" · ")}</span>
      ${source.warning && html`<span class="below error">${source.warning}</span>`}
      ${source.older_accepted_until && Date.parse(source.older_accepted_until) > now.value &&
      html`<span class="below">
        One reading may bring older documents, until ${dateTime(source.older_accepted_until)}.
      </span>`}
      ${source.unsigned && html`<span class="below error">Unsigned: nobody vouches for what comes from here.</span>`}
    </p>
    ${may("admin") &&
    html`<div class="source-buttons">
      ${canRise && html`<${Prefer} key=${source.id} source=${source} priority=${above(sources)} />`}
      ${source.error_code === "too_old" &&
      html`<button type="button" class="small" onClick=${onOlder}>Accept older documents</button>`}
      <button type="button" class="small" onClick=${onEdit}>Edit source</button>
      ${sources.length > 1 && html`<button type="button" class="small" onClick=${onRemove}>Remove</button>`}
    </div>`}
  </div>`;
}

/** A priority that wins over all there are. */
function above(sources) {
  return Math.min(MAX_PRIORITY, Math.max(...sources.map((one) => one.priority)) + 10);
}

function signers(source) {
  if (source.unsigned) return null;
  if (source.keyring_name) return `signed by the keyring ${source.keyring_name}, which Bootferry ships`;
  if (source.key_ids.length === 0) return "signed by keys that cannot be read at the moment";
  return `signed by ${source.key_ids.map(keyId).join(" or ")}`;
}

function reading(source) {
  if (!source.last_read_at) return "not read yet";
  if (!source.current) return "not read yet under the trust it has now";
  return `read ${ago(source.last_read_at, now.value)}`;
}

/** The sources in the order in which they win: a signed one before an unsigned one, then by priority. Pure. */
export function ranked(sources) {
  return [...sources.filter((source) => !source.unsigned), ...sources.filter((source) => source.unsigned)];
}

/** Which sources win over this one, or over which it wins. */
function rank(source, sources) {
  if (sources.length < 2) return null;
  const names = (some) => some.map((one) => one.name).join(", ");
  if (source.unsigned && sources.some((one) => !one.unsigned)) {
    return `priority ${source.priority}: unsigned, so it wins only images whose selection names it`;
  }
  const order = ranked(sources);
  const place = order.indexOf(source);
  const before = order.slice(0, place);
  if (place === 0) return `priority ${source.priority}: wins over ${names(order.slice(1))}`;
  return `priority ${source.priority}: ${names(before)} ${before.length === 1 ? "wins" : "win"} over it`;
}
