// Dialogs about one image: which racks have it, which version is pinned, and deleting it.
import { useAnswer } from "./answer.js";
import { allItems, call, items } from "./api.js";
import { Dialog } from "./dialog.js";
import * as facts from "./facts.js";
import { size } from "./format.js";
import { Notice, tell } from "./notice.js";
import { Plan } from "./plan.js";
import { StateTable } from "./states.js";
import { html, useSignal } from "../vendor/preact.js";

/** Which racks have the image; the list follows what happens. */
export function ImageRacks({ id, name, onClose }) {
  const { answer, problem } = useAnswer(() => allItems(`/images/${id}/racks`), facts.images.value.value);
  return html`<${Dialog}
    wide
    title=${`${name} on the racks`}
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Close</button>`}
  >
    ${problem && html`<${Notice} kind="negative" title="The racks could not be listed.">${problem.message}<//>`}
    ${!answer && !problem && html`<p class="muted">Reading…</p>`}
    ${answer && html`<${StateTable} heading="Rack" rows=${answer} />`}
  <//>`;
}

/** Choose the version an image stays at, or let it follow its source again. */
export function PinDialog({ image, name, onClose }) {
  const { answer: seen, problem } = useAnswer(async () => {
    const [{ etag }, versions] = await Promise.all([
      call("GET", `/images/${image.id}`),
      items(`/images/${image.id}/versions`),
    ]);
    return { etag, versions };
  }, facts.images.value.value);
  const answer = seen && seen.versions;
  const chosen = useSignal(image.pinned_version || image.held_version || image.version);
  const refused = useSignal(null);
  const busy = useSignal(false);
  const attempt = (method, body, done) => async () => {
    busy.value = true;
    try {
      await call(method, `/images/${image.id}/pin`, { body, ifMatch: seen.etag });
      facts.images.load();
      onClose();
      tell("positive", done);
    } catch (error) {
      refused.value = error;
      if (error.status === 412) facts.images.load();
      busy.value = false;
    }
  };
  const pin = attempt("PUT", { version: chosen.value }, `${name} stays at ${chosen.value}.`);
  const unpin = attempt("DELETE", undefined, `${name} follows its source again.`);
  return html`<${Dialog}
    title=${`Pin ${name}`}
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Cancel</button>
      ${image.pinned_version && html`<button type="button" disabled=${busy.value || !seen} onClick=${unpin}>Unpin</button>`}
      <button
        type="button"
        class="primary"
        disabled=${busy.value || !answer || chosen.value === image.pinned_version}
        onClick=${pin}
      >
        Pin this version
      </button>`}
  >
    ${(refused.value || problem) &&
    html`<${Notice} kind="negative" title="Not pinned.">${(refused.value || problem).message}<//>`}
    <p>A pinned image stays at one version, whatever its source offers, until you unpin it.</p>
    ${!answer && !problem && html`<p class="muted">Reading…</p>`}
    <fieldset class="versions">
      <legend class="unseen">Version</legend>
      ${(answer || []).map(
        (version) => html`<label key=${version.name}>
          <input
            type="radio"
            name="version"
            value=${version.name}
            checked=${chosen.value === version.name}
            onChange=${() => {
              chosen.value = version.name;
            }}
          />
          <b>${version.name}</b>
          <span class="muted">${size(version.size_bytes)} · ${about(version, image)}</span>
        </label>`,
      )}
    </fieldset>
  <//>`;
}

function about(version, image) {
  const said = [];
  if (version.held) said.push("held");
  if (version.offered) said.push("offered");
  if (version.name === image.version) said.push("the newest");
  if (version.name === image.pinned_version) said.push("pinned now");
  return said.join(", ") || "neither held nor offered";
}

/** Delete an image, after its plan was shown. */
export function DeleteDialog({ image, name, nameOf, onClose }) {
  const again = useSignal(0);
  const { answer, problem } = useAnswer(() => call("DELETE", `/images/${image.id}?dry_run=true`), again.value);
  const refused = useSignal(null);
  const busy = useSignal(false);
  const remove = async () => {
    busy.value = true;
    try {
      await call("DELETE", `/images/${image.id}`, { ifMatch: answer.etag });
      facts.selections.load();
      facts.images.load();
      onClose();
      tell("positive", `${name} is unselected.`, "Region and racks delete it by themselves.");
    } catch (error) {
      refused.value = error;
      // Somebody changed the selection meanwhile: it is planned anew before anything is asked again.
      if (error.status === 412) again.value += 1;
      busy.value = false;
    }
  };
  return html`<${Dialog}
    title=${`Delete ${name}?`}
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Cancel</button>
      <button type="button" class="negative" disabled=${busy.value || !answer} onClick=${remove}>Delete image</button>`}
  >
    ${(refused.value || problem) &&
    html`<${Notice} kind="negative" title="Nothing was deleted.">${(refused.value || problem).message}<//>`}
    <p>It is deleted from the region and every rack. Machines can no longer be deployed with it until it is selected again.</p>
    ${!answer && !problem && html`<p class="muted">Planning…</p>`}
    ${answer && html`<${Plan} plan=${answer.data} nameOf=${nameOf} />`}
  <//>`;
}

/** Bring one image up to date now. Throws Problem. */
export async function updateNow(id, name) {
  await call("POST", "/imports", { body: { images: [id] } });
  tell("information", `${name} is being brought up to date.`);
  facts.imports.load();
}
