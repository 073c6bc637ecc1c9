// What lapses when a source's trust changes, and what becomes of what is held of it: asked before anything is done.
import { ActDialog } from "./act.js";
import { call } from "./api.js";
import { Dialog } from "./dialog.js";
import * as facts from "./facts.js";
import { byName } from "./format.js";
import { byImage, counted, idsOf } from "./held.js";
import { namer } from "./names.js";
import { Notice, tell, tellProblem } from "./notice.js";
import { Bootloaders, Names, Warnings } from "./plan.js";
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

/** Whether a change is more than its own fields: it lapses, moves, replaces or withdraws something. Pure. */
function matters(lapse) {
  const { lapses, held, moved, bootloaders_change: changed, bootloaders_withdraw: withdrawn } = lapse;
  return [lapses, held, moved, changed, withdrawn].some((some) => some.length > 0);
}

/** What lapses, what comes from elsewhere, what is held of it, and the choice what becomes of that. */
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
        After this, nobody vouches for ${counted(lapse.lapses)} that ${name} offers.
        ${isRead && " What is read under the new trust is offered again."}
      </p>
      <details class="lapses">
        <summary>Which they are</summary>
        <ul class="plan-names">
          ${lapse.lapses.map(nameOf).sort(byName).map((one) => html`<li key=${one}>${one}</li>`)}
        </ul>
      </details>`}
    <dl class="plan">
      ${lapse.moved.length > 0 &&
      html`<${Names} sign="→" title="To change source" ids=${lapse.moved} nameOf=${nameOf} />`}
      <${Bootloaders} plan=${lapse} />
    </dl>
    <${Warnings} plan=${lapse} />
    ${lapse.held.length > 0 &&
    html`<p>Held of it, and nobody would vouch for it: ${counted(idsOf(lapse.held))}.</p>
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

/**
 * Changing a source. `begin(body, etag)` makes the change, or first asks about what it leads to; `dialog` is to be
 * shown. Then `onSaved(source)` is called, or `onRefused(problem)`.
 */
export function useChange(source, { onSaved, onRefused }) {
  const asked = useSignal(null);
  const send = (body, etag, given) =>
    call("PATCH", `/sources/${source.id}${query(given.choice, given.dryRun)}`, { body, ifMatch: etag });
  const begin = async (body, etag) => {
    const losesSignature = !source.unsigned && body.unsigned === true;
    const confirmed = losesSignature ? { ...body, confirm_unsigned: true } : body;
    try {
      const lapse = (await send(confirmed, etag, { dryRun: true })).data;
      if (losesSignature || matters(lapse)) asked.value = { lapse, losesSignature, body: confirmed, etag };
      else await onSaved((await send(body, etag, {})).data);
    } catch (problem) {
      onRefused(problem);
    }
  };
  const close = () => {
    asked.value = null;
  };
  const save = async (choice) => {
    const { body, etag } = asked.value;
    try {
      const { data } = await send(body, etag, { choice });
      close();
      await onSaved(data);
    } catch (problem) {
      close();
      onRefused(problem);
    }
  };
  const given = { ...asked.value, source, save, onClose: close };
  const dialog = asked.value && html`<${ChangeDialog} ...${given} />`;
  return { begin, dialog };
}

/** Let a source win over all others, after it was shown which images come from it then. */
export function Prefer({ source, priority }) {
  const busy = useSignal(false);
  const { begin, dialog } = useChange(source, {
    onSaved: async () => {
      tell("positive", `${source.name} wins now.`, "Images that several sources offer come from it.");
      await facts.sources.load();
    },
    onRefused: (problem) => {
      tellProblem("The order stays as it was.", problem);
      facts.sources.load();
    },
  });
  const prefer = async () => {
    busy.value = true;
    try {
      const { etag } = await call("GET", `/sources/${source.id}`);
      await begin({ priority }, etag);
    } catch (problem) {
      tellProblem("The order stays as it was.", problem);
    }
    busy.value = false;
  };
  return html`<button type="button" class="small" disabled=${busy} onClick=${prefer}>Prefer</button>${dialog}`;
}

/** Ask about a change that leads to more than its own fields say. `save(choice)` makes it. */
function ChangeDialog({ source, lapse, losesSignature, save, onClose }) {
  const choice = useSignal(null);
  const confirmed = useSignal(false);
  const busy = useSignal(false);
  const isDecided = (lapse.held.length === 0 || choice.value) && (!losesSignature || confirmed.value);
  const go = async () => {
    busy.value = true;
    await save(choice.value);
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
      facts.settings.load();
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

/** Ask before a source may bring documents older than those accepted before. */
export function OlderDialog({ source, onClose }) {
  return html`<${ActDialog}
    title=${`Accept older documents of ${source.name}?`}
    of=${`/sources/${source.id}`}
    method="POST"
    path=${`/sources/${source.id}/accept-older`}
    button="Accept older documents"
    done=${`${source.name} is read now.`}
    follows="Documents older than those accepted before are taken this once."
    refused="Nothing was changed."
    fact=${facts.sources}
    onClose=${onClose}
  >
    <p>
      The next reading takes the documents that are there, however old: images may go back to older versions. Signatures
      still count. Do this when the mirror's owner has said that it went back on purpose.
    </p>
  <//>`;
}

/** Withdraw all that is held and nobody vouches for, after it was shown. */
export function WithdrawDialog({ onClose }) {
  const { items: held, etag } = facts.unvouched.value.value;
  const refused = useSignal(null);
  const busy = useSignal(false);
  const withdraw = async () => {
    busy.value = true;
    try {
      const { data } = await call("DELETE", "/unvouched", { ifMatch: etag });
      onClose();
      tell("positive", `Withdrawn: ${counted(idsOf(data.items)) || "nothing"}.`, "Racks lose it with their next poll.");
      facts.unvouched.load();
      facts.images.load();
    } catch (problem) {
      refused.value = problem;
      if (problem.status === 412) await facts.unvouched.load();
      busy.value = false;
    }
  };
  return html`<${Dialog}
    wide
    title=${held.length ? `Withdraw ${counted(idsOf(held))}?` : "Nothing to withdraw"}
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Cancel</button>
      <button type="button" class="negative" disabled=${busy.value || held.length === 0} onClick=${withdraw}>Withdraw</button>`}
  >
    ${refused.value && html`<${Notice} kind="negative" title="Nothing was withdrawn.">${refused.value.message}<//>`}
    <p>
      What is listed here will be withdrawn from every rack. Machines can no longer be deployed with it until it is
      imported again, signed by somebody who is believed.
    </p>
    <${Held} held=${held} nameOf=${namer()} />
  <//>`;
}
