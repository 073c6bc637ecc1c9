// What lapses when a source's trust changes, and what becomes of what is held of it: asked before anything is done.
import { call } from "./api.js";
import { Dialog } from "./dialog.js";
import * as facts from "./facts.js";
import { byImage, counted } from "./held.js";
import { namer } from "./names.js";
import { Notice, tell } from "./notice.js";
import { signers } from "./words.js";
import { html, useEffect, useSignal } from "../vendor/preact.js";

function Held({ held, nameOf }) {
  return html`<div class="held"><table role="table" class="stacked" aria-label="What is held">
    <thead role="rowgroup">
      <tr role="row">
        ${["Image", "Version", "Signed by"].map(
          (title) => html`<th key=${title} role="columnheader" scope="col">${title}</th>`,
        )}
      </tr>
    </thead>
    <tbody role="rowgroup">
      ${byImage(held).map(
        (one) => html`<tr role="row" key=${`${one.image} ${one.version}`}>
          <th role="rowheader" scope="row">${nameOf(one.image)}</th>
          <td role="cell" data-label="Version">${one.version}</td>
          <td role="cell" data-label="Signed by" title=${one.vouched_by.join("\n")}>${signers(one.vouched_by)}</td>
        </tr>`,
      )}
    </tbody>
  </table></div>`;
}

/** What lapses, what is held of it, and the choice what becomes of that. */
function Lapse({ name, lapse, choice, isRead }) {
  const nameOf = namer();
  const pick = (value, title, text) => html`<label class="choose">
    <input
      type="radio"
      name="held"
      value=${value}
      checked=${choice.value === value}
      onChange=${() => {
        choice.value = value;
      }}
    />
    <span><b>${title}</b><span class="below">${text}</span></span>
  </label>`;
  return html`${lapse.lapses.length > 0 &&
    html`<p>
      Nobody vouches then for what ${name} offered of ${lapse.lapses.map(nameOf).sort().join(", ")}.
      ${isRead && " What is read under the new trust is offered again."}
    </p>`}
    ${lapse.held.length > 0 &&
    html`<p>Held of it, and nobody would vouch for it: ${counted(lapse.held)}.</p>
      <${Held} held=${lapse.held} nameOf=${nameOf} />
      <fieldset class="chooses">
        <legend>What becomes of what is held?</legend>
        ${pick("keep", "Keep it", "Racks go on serving it, and it says who signed it. It can be withdrawn later.")}
        ${pick("withdraw", "Withdraw it", "Machines lose it with their rack's next poll, until it is imported again.")}
      </fieldset>`}`;
}

function query(choice, dryRun) {
  const parts = [choice ? `held=${choice}` : "", dryRun ? "dry_run=true" : ""].filter(Boolean);
  return parts.length ? `?${parts.join("&")}` : "";
}

/** A source's change, or what it would lapse for a dry run. Throws Problem. */
export function change(source, body, etag, { choice = null, dryRun = false } = {}) {
  return call("PATCH", `/sources/${source.id}${query(choice, dryRun)}`, { body, ifMatch: etag });
}

/**
 * Ask about a change of `source` that lapses something or takes its signature away. `save(choice, confirmed)` makes it
 * and throws Problem.
 */
export function ChangeDialog({ source, lapse, losesSignature, save, onClose }) {
  const choice = useSignal(null);
  const confirmed = useSignal(false);
  const refused = useSignal(null);
  const busy = useSignal(false);
  const isDecided = (lapse.held.length === 0 || choice.value) && (!losesSignature || confirmed.value);
  const go = async () => {
    busy.value = true;
    refused.value = null;
    try {
      await save(choice.value, confirmed.value);
    } catch (problem) {
      refused.value = problem;
      busy.value = false;
    }
  };
  return html`<${Dialog}
    wide
    title=${`Save ${source.name}?`}
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Cancel</button>
      <button
        type="button"
        class=${losesSignature || choice.value === "withdraw" ? "negative" : "primary"}
        disabled=${busy.value || !isDecided}
        onClick=${go}
      >
        ${choice.value === "withdraw" ? "Save and withdraw" : "Save source"}
      </button>`}
  >
    ${refused.value && html`<${Notice} kind="negative" title="Nothing was saved.">${refused.value.message}<//>`}
    ${losesSignature &&
    html`<${Notice} kind="caution" title=${`${source.name} would be believed without any signature.`}>
        Anybody between it and this region can then change what your machines boot.
      <//>
      <label class="check">
        <input
          type="checkbox"
          checked=${confirmed.value}
          onChange=${(event) => {
            confirmed.value = event.currentTarget.checked;
          }}
        />
        Yes, a signed source is to become an unsigned one
      </label>`}
    <${Lapse} name=${source.name} lapse=${lapse} choice=${choice} isRead />
  <//>`;
}

/** Ask about the removal of a source, after a dry run said what lapses by it. */
export function RemoveDialog({ source, onClose, onDone }) {
  const looked = useSignal(null);
  const choice = useSignal(null);
  const refused = useSignal(null);
  const busy = useSignal(false);
  const look = async () => {
    try {
      const { etag } = await call("GET", `/sources/${source.id}`);
      looked.value = { etag, lapse: (await call("DELETE", `/sources/${source.id}?dry_run=true`)).data };
    } catch (problem) {
      refused.value = problem;
    }
  };
  useEffect(() => {
    look();
  }, []);
  const remove = async () => {
    busy.value = true;
    refused.value = null;
    try {
      await call("DELETE", `/sources/${source.id}${query(choice.value)}`, { ifMatch: looked.value.etag });
      onDone();
      tell("positive", `${source.name} is removed.`);
      facts.sources.load();
      facts.selections.load();
      return;
    } catch (problem) {
      refused.value = problem;
      if (problem.status === 412) {
        facts.sources.load();
        await look();
      }
    }
    busy.value = false;
  };
  const isDecided = looked.value && (looked.value.lapse.held.length === 0 || choice.value);
  return html`<${Dialog}
    wide
    title=${`Remove ${source.name}?`}
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Cancel</button>
      <button type="button" class="negative" disabled=${busy.value || !isDecided} onClick=${remove}>
        ${choice.value === "withdraw" ? "Remove and withdraw" : "Remove source"}
      </button>`}
  >
    ${refused.value && html`<${Notice} kind="negative" title=${`${source.name} stays.`}>${refused.value.message}<//>`}
    <p>
      The source and its keyring are removed. Selections that name it mean whichever source wins from then on.
    </p>
    ${!looked.value && !refused.value && html`<p class="muted">Reading…</p>`}
    ${looked.value && html`<${Lapse} name=${source.name} lapse=${looked.value.lapse} choice=${choice} />`}
  <//>`;
}

/** Withdraw all that is held and nobody vouches for, after it was shown. */
export function WithdrawDialog({ held, onClose }) {
  const refused = useSignal(null);
  const busy = useSignal(false);
  const withdraw = async () => {
    busy.value = true;
    try {
      const { data } = await call("DELETE", "/unvouched");
      onClose();
      tell("positive", `${counted(data.items) || "Nothing"} withdrawn.`, "Racks lose it with their next poll.");
      facts.unvouched.load();
      facts.images.load();
    } catch (problem) {
      refused.value = problem;
      busy.value = false;
    }
  };
  return html`<${Dialog}
    wide
    title=${`Withdraw ${counted(held)}?`}
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Cancel</button>
      <button type="button" class="negative" disabled=${busy} onClick=${withdraw}>Withdraw</button>`}
  >
    ${refused.value && html`<${Notice} kind="negative" title="Nothing was withdrawn.">${refused.value.message}<//>`}
    <p>
      It will be withdrawn from every rack. Machines can no longer be deployed with it until it is imported again,
      signed by somebody who is believed.
    </p>
    <${Held} held=${held} nameOf=${namer()} />
  <//>`;
}
