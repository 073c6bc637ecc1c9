// The Settings page: who is logged in here, what is set at run time, and who may do what.
import { ActDialog } from "./act.js";
import { Bar } from "./bar.js";
import { call } from "./api.js";
import { Copyable } from "./copy.js";
import { Dialog } from "./dialog.js";
import * as facts from "./facts.js";
import { ago, dateTime, plural, size } from "./format.js";
import { Notice, tellProblem } from "./notice.js";
import { Preferences } from "./preferences.js";
import { logOut, may, session } from "./session.js";
import { now } from "./time.js";
import { ROLE } from "./words.js";
import { html, useSignal } from "../vendor/preact.js";

export function SettingsPage() {
  facts.useFacts(facts.storage);
  return html`<header class="page-head">
      <div class="page-head-inner"><h1 tabindex="-1">Settings</h1></div>
    </header>
    <div class="page-body">
      <${Session} />
      <${Preferences} />
      ${may("admin") && html`<${Tokens} />`}
      <${Storage} />
      <section aria-labelledby="api">
        <h2 id="api">API and command line</h2>
        <p>
          Everything on these pages goes through the same HTTP API, described at <a href="/docs">/docs</a>, and the
          command <code>bootferry</code> does it from a shell.
        </p>
      </section>
    </div>`;
}

function Session() {
  const { name, role, expires_at: expires } = session.value;
  const leave = () => logOut().catch((problem) => tellProblem("Still logged in.", problem));
  return html`<section aria-labelledby="session">
    <h2 id="session">Log-in</h2>
    <p>
      You are <b>${name}</b>, ${ROLE[role].word.toLowerCase()}: who ${ROLE[role].means}. Unused, this session ends
      ${" "}${dateTime(expires)}.
    </p>
    <button type="button" onClick=${leave}>Log out</button>
  </section>`;
}

function Tokens() {
  facts.useFacts(facts.operatorTokens);
  const tokens = facts.operatorTokens.value.value;
  const dialog = useSignal(null);
  const close = () => {
    dialog.value = null;
  };
  return html`<section aria-labelledby="tokens">
    <div class="section-head">
      <h2 id="tokens">Tokens</h2>
      <button
        type="button"
        onClick=${() => {
          dialog.value = { name: "make" };
        }}
      >
        Make a token
      </button>
    </div>
    <table class="stacked" role="table" aria-labelledby="tokens">
      <thead role="rowgroup">
        <tr role="row">
          ${["Name", "Role", "Made", "Expires", "Last used", "Actions"].map(
            (title) => html`<th key=${title} role="columnheader" scope="col">${title}</th>`,
          )}
        </tr>
      </thead>
      <tbody role="rowgroup">
        ${(tokens || []).map(
          (token) => html`<tr role="row" key=${token.id}>
            <th role="rowheader" scope="row">${token.name}<span class="below">bf_${token.id}_…</span></th>
            <td role="cell" data-label="Role">${ROLE[token.role].word}</td>
            <td role="cell" data-label="Made">${ago(token.created_at, now.value)}</td>
            <td role="cell" data-label="Expires">${token.expires_at ? dateTime(token.expires_at) : "never"}</td>
            <td role="cell" data-label="Last used">
              ${token.last_used_at ? ago(token.last_used_at, now.value) : "never"}
            </td>
            <td role="cell" class="cell-actions">
              <button
                type="button"
                class="small"
                aria-label=${`Remove the token of ${token.name}`}
                onClick=${() => {
                  dialog.value = { name: "remove", token };
                }}
              >
                Remove
              </button>
            </td>
          </tr>`,
        )}
      </tbody>
    </table>
    ${dialog.value && dialog.value.name === "make" && html`<${MakeDialog} onClose=${close} />`}
    ${dialog.value && dialog.value.name === "remove" &&
    html`<${RemoveDialog} token=${dialog.value.token} onClose=${close} />`}
  </section>`;
}

const EXPIRIES = [
  ["", "Never"],
  ["7", "In 7 days"],
  ["90", "In 90 days"],
  ["365", "In a year"],
];

function MakeDialog({ onClose }) {
  const form = useSignal({ name: "", role: "viewer", days: "" });
  const made = useSignal(null);
  const refused = useSignal(null);
  const busy = useSignal(false);
  const set = (field) => (event) => {
    form.value = { ...form.value, [field]: event.currentTarget.value };
  };
  const make = async (event) => {
    event.preventDefault();
    busy.value = true;
    refused.value = null;
    const { name, role, days } = form.value;
    const expires = days ? new Date(Date.now() + Number(days) * 86_400_000).toISOString() : null;
    try {
      made.value = (await call("POST", "/operator-tokens", { body: { name: name.trim(), role, expires_at: expires } })).data;
      facts.operatorTokens.load();
    } catch (problem) {
      refused.value = problem;
    }
    busy.value = false;
  };
  if (made.value) {
    return html`<${Dialog}
      wide
      title=${`The token of ${form.value.name}`}
      onClose=${onClose}
      actions=${html`<button type="button" class="primary" onClick=${onClose}>Done</button>`}
    >
      <${Copyable} label="Token" text=${made.value.token} />
      <${Notice} kind="caution" title="Shown this once.">The region keeps only its digest.<//>
    <//>`;
  }
  return html`<${Dialog}
    title="Make a token"
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Cancel</button>
      <button type="submit" form="make-token" class="primary" disabled=${busy.value || !form.value.name.trim()}>
        Make a token
      </button>`}
  >
    ${refused.value && html`<${Notice} kind="negative" title="No token was made.">${refused.value.message}<//>`}
    <form id="make-token" onSubmit=${make}>
      <label for="token-name">Whose it is</label>
      <input id="token-name" required maxlength="64" value=${form.value.name} onInput=${set("name")} />
      <label for="token-role">Role</label>
      <select id="token-role" onChange=${set("role")}>
        ${Object.entries(ROLE).map(
          ([role, { word, means }]) => html`<option key=${role} value=${role} selected=${form.value.role === role}>
            ${word}: ${means}
          </option>`,
        )}
      </select>
      <label for="token-expiry">Expires</label>
      <select id="token-expiry" onChange=${set("days")}>
        ${EXPIRIES.map(
          ([days, words]) => html`<option key=${days} value=${days} selected=${form.value.days === days}>${words}</option>`,
        )}
      </select>
    </form>
  <//>`;
}

function RemoveDialog({ token, onClose }) {
  return html`<${ActDialog}
    title=${`Remove the token of ${token.name}?`}
    of=${`/operator-tokens/${token.id}`}
    method="DELETE"
    path=${`/operator-tokens/${token.id}`}
    button="Remove token"
    done=${`The token of ${token.name} is removed.`}
    refused="Not removed."
    fact=${facts.operatorTokens}
    onClose=${onClose}
  >
    <p>Whoever uses it, and every session that was opened with it, is refused from then on.</p>
  <//>`;
}

function Storage() {
  const storage = facts.storage.value.value;
  if (!storage) return null;
  const used = storage.total_bytes - storage.free_bytes;
  return html`<section aria-labelledby="storage">
    <h2 id="storage">Storage</h2>
    <p>
      ${plural(storage.files, "file")} of images take ${size(storage.held_bytes)}; ${size(storage.free_bytes)} of
      ${" "}${size(storage.total_bytes)} are free.
    </p>
    <${Bar} label="Disk used" value=${used} max=${storage.total_bytes} />
  </section>`;
}
