// What an operator must know before anything else on the page: each notice follows from facts and goes with them.
import { WaitingRacks } from "./confirm.js";
import { counted, idsOf } from "./held.js";
import * as facts from "./facts.js";
import { ago, dateTime, plural, size, until } from "./format.js";
import { Notice } from "./notice.js";
import { may, session } from "./session.js";
import { now } from "./time.js";
import { ROLE } from "./words.js";
import { html } from "../vendor/preact.js";

const NEARLY_FULL = 0.1; // of the disk free
const EXPIRY_NOTICE_MS = 14 * 86_400_000; // so long before the last administrator's token expires, administrators are told

/** `onWithdraw` is called by who wants to withdraw what nobody vouches for. */
export function Conditions({ onWithdraw }) {
  const images = facts.images.value.value;
  const racks = facts.racks.value.value;
  return html`<div class="conditions">
    <${Unanswered} />
    ${!may("operator") &&
    html`<${Notice} title="You see everything and change nothing.">
      ${session.value.name} has the role ${ROLE[session.value.role].word.toLowerCase()}; ask an administrator for more.
    <//>`}
    <${Sources} />
    <${Unvouched} onWithdraw=${onWithdraw} />
    <${LastImport} />
    <${Disk} />
    ${may("admin") && html`<${LastAdministrator} />`}
    ${images && racks && racks.length === 0 && html`<${FirstSteps} images=${images} />`}
    ${racks && html`<${WaitingRacks} racks=${racks}>${" "}<a href="#/racks">Racks</a><//>`}
    ${racks && racks.length > 0 && html`<${AwayRacks} racks=${racks} />`}
  </div>`;
}

function Unanswered() {
  const problem = facts.images.problem.value;
  if (!problem || problem.status === 401) return null;
  return html`<${Notice} kind="negative" title="This may be out of date.">${problem.message}<//>`;
}

function Sources() {
  const sources = facts.sources.value.value || [];
  return html`${sources
    .filter((source) => source.error)
    .map(
      (source) => html`<${Notice} key=${source.id} kind="negative" title=${`${source.name} could not be read.`}>
        ${source.error} What is held stays and is served; every sync tries again.
      <//>`,
    )}
  ${sources
    .filter((source) => source.warning)
    .map(
      (source) => html`<${Notice} key=${`old-${source.id}`} kind="caution" title=${`${source.name} brings nothing new.`}>
        ${source.warning}
      <//>`,
    )}`;
}

function Unvouched({ onWithdraw }) {
  const { items: held } = facts.unvouched.value.value || { items: [] };
  if (held.length === 0) return null;
  const ids = idsOf(held);
  const isOne = ids.length === 1;
  return html`<${Notice}
    kind="caution"
    title=${`${counted(ids)} ${isOne ? "is" : "are"} held that no present signer vouches for.`}
  >
    Racks go on serving ${isOne ? "it, and it" : "them, and each"} says who signed it.
    ${may("operator") &&
    html`${" "}<button type="button" class="link" onClick=${onWithdraw}>Withdraw ${isOne ? "it" : "them"}</button>`}
  <//>`;
}

/** The last import that ended, when it failed of its own accord rather than on a source named above. */
function LastImport() {
  const last = facts.lastEnded();
  if (!last || last.state !== "failed") return null;
  const isSaid = (facts.sources.value.value || []).some((source) => source.error && source.error === last.error);
  if (isSaid) return null;
  return html`<${Notice} kind="negative" title=${`The last import failed, ${ago(last.finished_at, now.value)}.`}>
    ${last.error} ${last.retry_at && `Tries again ${until(last.retry_at, now.value)}.`}
    ${" "}<a href="#/activity">See what it did</a>
  <//>`;
}

function Disk() {
  const storage = facts.storage.value.value;
  if (!storage || storage.free_bytes >= storage.total_bytes * NEARLY_FULL) return null;
  return html`<${Notice} kind="caution" title="The region's disk is nearly full.">
    ${size(storage.free_bytes)} of ${size(storage.total_bytes)} are free; images take ${size(storage.held_bytes)}.
    Unselect images, or give it a larger disk.
  <//>`;
}

/** The administrator's token that is good for longest, if it expires within two weeks; else null. Pure. */
export function expiring(tokens, at) {
  const valid = tokens.filter(
    ({ role, expires_at: expires }) => role === "admin" && (!expires || Date.parse(expires) > at),
  );
  if (valid.length === 0 || valid.some((token) => !token.expires_at)) return null;
  const last = valid.reduce((a, b) => (Date.parse(b.expires_at) > Date.parse(a.expires_at) ? b : a));
  return Date.parse(last.expires_at) <= at + EXPIRY_NOTICE_MS ? last : null;
}

function LastAdministrator() {
  const token = expiring(facts.operatorTokens.value.value || [], now.value);
  if (!token) return null;
  return html`<${Notice}
    kind="caution"
    title=${`The last administrator's token, ${token.name}, expires on ${dateTime(token.expires_at)}.`}
  >
    Make another one before, or nobody can manage sources, racks and tokens. <a href="#/settings">Settings</a>
  <//>`;
}

function AwayRacks({ racks }) {
  const away = racks.filter((rack) => rack.status === "unreachable");
  if (away.length === 0) return null;
  return html`<${Notice} kind="caution" title=${`${plural(away.length, "rack")} out of reach:`}>
    ${away.map((rack) => rack.name).join(", ")}. No image is “Synced” on ${away.length === 1 ? "its" : "their"} account.
    ${" "}<a href="#/racks">Racks</a>
  <//>`;
}

/** What a new region still lacks. */
function FirstSteps({ images }) {
  const sources = facts.sources.value.value || [];
  const steps = [
    [sources.some((source) => source.last_read_at && !source.error), "A source is read"],
    [images.some((image) => image.held_version), "The first image is stored on the region"],
    [false, html`A rack serves it to machines: <a href="#/racks">enrol a rack</a>`],
  ];
  return html`<div class="notice notice-information first-steps">
    <div class="notice-text">
      <strong class="notice-title">${images.some((i) => i.held_version) ? "One step is left." : "Welcome to Bootferry."}</strong>
      ${" "}The region fetches what you select here; racks fetch it from the region.
      <ol>
        ${steps.map(
          ([done, text], i) => html`<li key=${i} class=${done ? "done" : ""}>
            ${text}<span class="unseen">${done ? " (done)" : " (to do)"}</span>
          </li>`,
        )}
      </ol>
    </div>
  </div>`;
}
