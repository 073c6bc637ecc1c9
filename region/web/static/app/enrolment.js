// Letting racks in: making a token, the tokens that let one in, and revoking one.
import { ActDialog } from "./act.js";
import { call } from "./api.js";
import { Copyable } from "./copy.js";
import { Dialog } from "./dialog.js";
import * as facts from "./facts.js";
import { ago, dateTime, plural, until } from "./format.js";
import { Status } from "./icons.js";
import { Notice } from "./notice.js";
import { now } from "./time.js";
import { RACK } from "./words.js";
import { html, useSignal } from "../vendor/preact.js";

const SHOWN_OF_ID = 12; // as many of its characters as `bootferry rack tokens` shows

const LIFETIMES = [
  [3600, "1 hour"],
  [86_400, "1 day"],
  [7 * 86_400, "7 days"],
];

export function EnrolDialog({ onClose }) {
  const lifetime = useSignal(LIFETIMES[0][0]);
  const uses = useSignal("1");
  const made = useSignal(null);
  const refused = useSignal(null);
  const busy = useSignal(false);
  const make = async (event) => {
    event.preventDefault();
    busy.value = true;
    refused.value = null;
    try {
      const body = { lifetime_seconds: lifetime.value, uses: Number(uses.value) };
      made.value = (await call("POST", "/enrolment-tokens", { body })).data;
      facts.enrolmentTokens.load();
    } catch (problem) {
      refused.value = problem;
    }
    busy.value = false;
  };
  if (made.value) return html`<${MadeDialog} made=${made.value} uses=${Number(uses.value)} onClose=${onClose} />`;
  return html`<${Dialog}
    title="Enrol a rack"
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Cancel</button>
      <button type="submit" form="enrol" class="primary" disabled=${busy}>Make a token</button>`}
  >
    ${refused.value && html`<${Notice} kind="negative" title="No token was made.">${refused.value.message}<//>`}
    <form id="enrol" onSubmit=${make}>
      <label for="enrol-lifetime">Good for</label>
      <select
        id="enrol-lifetime"
        onChange=${(event) => {
          lifetime.value = Number(event.currentTarget.value);
        }}
      >
        ${LIFETIMES.map(
          ([seconds, words]) => html`<option key=${seconds} value=${seconds} selected=${lifetime.value === seconds}>
            ${words}
          </option>`,
        )}
      </select>
      <label for="enrol-uses">Racks that may use it</label>
      <input
        id="enrol-uses"
        type="number"
        min="1"
        max="1000"
        required
        value=${uses}
        onInput=${(event) => {
          uses.value = event.currentTarget.value;
        }}
      />
    </form>
  <//>`;
}

/** What to type on a rack, by the address that it knows the region by. Pure. */
export function commandAt(command, address) {
  return command.replace(/(--region )\S+/, (_, option) => option + address);
}

/** The command and the token, shown once, until the racks that use them are there and well. */
function MadeDialog({ made, uses, onClose }) {
  const address = useSignal(made.command.match(/--region (\S+)/)[1]);
  const isHeld = useSignal(false);
  facts.useFacts(facts.racks);
  // Racks that were there before are none of those that this token lets in.
  const before = useSignal(null);
  const racks = facts.racks.value.value;
  if (racks && before.value === null) before.value = new Set(racks.map((rack) => rack.id));
  const arrived = (racks || []).filter((rack) => before.value && !before.value.has(rack.id));
  return html`<${Dialog}
    wide
    title="Enrol a rack"
    onClose=${onClose}
    onEscape=${() => {
      if (arrived.length) onClose();
      else isHeld.value = true;
    }}
    actions=${html`<button type="button" class="primary" onClick=${onClose}>Done</button>`}
  >
    <label for="enrol-address">The region's address, as the rack reaches it</label>
    <input
      id="enrol-address"
      type="url"
      spellcheck=${false}
      value=${address}
      onInput=${(event) => {
        address.value = event.currentTarget.value.trim();
      }}
    />
    <p>Run this on the rack, and give it the token when it asks.</p>
    <${Copyable} label="Command" text=${commandAt(made.command, address.value)} />
    <${Copyable} label="Token" text=${made.token} />
    <${Notice} kind="caution" title="Shown this once.">
      The token is good until ${dateTime(made.expires_at)}, for ${plural(uses, "rack")}. Whoever has it can enrol a rack.
      ${isHeld.value && html` <strong>Press Done when you have copied it.</strong>`}
    <//>
    <p>Then start the rack:</p>
    <${Copyable} label="Second command" text="sudo systemctl enable --now bootferry-rack" />
    <ul class="arrived" role="status">
      ${arrived.length === 0 && html`<li class="muted">Waiting for the rack…</li>`}
      ${arrived.map(
        (rack) => html`<li key=${rack.id}><b>${rack.name}</b> <${Status} entry=${RACK[rack.status]} /></li>`,
      )}
    </ul>
  <//>`;
}

/** The tokens that still let a rack in, the newest first. Pure. */
export function usable(tokens, at) {
  return tokens
    .filter((token) => token.uses_left > 0 && Date.parse(token.expires_at) > at)
    .sort((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at));
}

/** Which tokens still let a rack in; nothing where none does. */
export function EnrolmentTokens() {
  facts.useFacts(facts.enrolmentTokens);
  const revoking = useSignal(null);
  const problem = facts.enrolmentTokens.problem.value;
  const tokens = usable(facts.enrolmentTokens.value.value || [], now.value);
  const close = () => {
    revoking.value = null;
  };
  const dialog = revoking.value && html`<${RevokeDialog} token=${revoking.value} onClose=${close} />`;
  if (problem && !tokens.length) {
    return html`<${Notice} kind="negative" title="The enrolment tokens could not be read.">${problem.message}<//>`;
  }
  if (!tokens.length) return dialog;
  return html`<section aria-labelledby="enrolment-tokens">
    <h2 id="enrolment-tokens">Enrolment tokens</h2>
    <p>Whoever has one of these can enrol a rack. Revoke one that went astray.</p>
    <table class="stacked" role="table" aria-labelledby="enrolment-tokens">
      <thead role="rowgroup">
        <tr role="row">
          ${["Token", "Made by", "Made", "Expires", "Uses left", "Actions"].map(
            (title) => html`<th key=${title} role="columnheader" scope="col">${title}</th>`,
          )}
        </tr>
      </thead>
      <tbody role="rowgroup">
        ${tokens.map(
          (token) => html`<tr role="row" key=${token.id} data-token=${token.id}>
            <th role="rowheader" scope="row"><code>${shown(token)}</code></th>
            <td role="cell" data-label="Made by">${token.made_by || "–"}</td>
            <td role="cell" data-label="Made">${ago(token.created_at, now.value)}</td>
            <td role="cell" data-label="Expires" title=${dateTime(token.expires_at)}>
              ${until(token.expires_at, now.value)}
            </td>
            <td role="cell" data-label="Uses left">${token.uses_left}</td>
            <td role="cell" class="cell-actions">
              <button
                type="button"
                class="small"
                aria-label=${`Revoke ${shown(token)}`}
                onClick=${() => {
                  revoking.value = token;
                }}
              >
                Revoke
              </button>
            </td>
          </tr>`,
        )}
      </tbody>
    </table>
    ${dialog}
  </section>`;
}

function shown(token) {
  return token.id.slice(0, SHOWN_OF_ID);
}

function RevokeDialog({ token, onClose }) {
  return html`<${ActDialog}
    title=${`Revoke the enrolment token ${shown(token)}?`}
    of=${`/enrolment-tokens/${token.id}`}
    method="DELETE"
    path=${`/enrolment-tokens/${token.id}`}
    button="Revoke token"
    done=${`The enrolment token ${shown(token)} is revoked.`}
    follows="Racks that enrolled with it stay."
    refused="Not revoked."
    fact=${facts.enrolmentTokens}
    onClose=${onClose}
  >
    <p>It lets no rack in any longer. Racks that enrolled with it stay.</p>
  <//>`;
}
