// Saving the selection: the plan in a dialog, then all of it or nothing, and what to do when somebody was faster.
import { call, Problem } from "./api.js";
import { forgetLoose } from "./choice.js";
import { Dialog } from "./dialog.js";
import * as facts from "./facts.js";
import { Notice, tell } from "./notice.js";
import { Plan, summary } from "./plan.js";
import { draft, unfulfilled, whole } from "./selection.js";
import { html, useEffect, useSignal } from "../vendor/preact.js";

/** The dialog. `onClose` is called when it is over, saved or not. */
export function SaveDialog({ nameOf, onClose }) {
  const plan = useSignal(null);
  const refused = useSignal(null);
  const busy = useSignal(true);
  const overtaken = useSignal(null);
  // What the plan was made for is what is saved: neither the tag nor the items are read again in between.
  const planned = useSignal(null);

  const prepare = async () => {
    busy.value = true;
    refused.value = null;
    overtaken.value = null;
    try {
      await facts.selections.load();
      if (facts.selections.problem.value) throw facts.selections.problem.value;
      const saved = facts.selections.value.value;
      draft.value = unfulfilled(draft.value, saved.items);
      const items = whole(draft.value, saved.items);
      const answer = await call("PUT", "/selections?dry_run=true", { body: { items }, ifMatch: saved.etag });
      planned.value = { items, etag: saved.etag };
      plan.value = answer.data;
    } catch (problem) {
      refuse(problem);
    }
    busy.value = false;
  };

  const refuse = (problem) => {
    if (problem instanceof Problem && problem.status === 412) overtaken.value = problem;
    else refused.value = problem;
  };

  const save = async () => {
    busy.value = true;
    refused.value = null;
    try {
      const { items, etag } = planned.value;
      const { data } = await call("PUT", "/selections", { body: { items }, ifMatch: etag });
      draft.value = new Map();
      forgetLoose();
      onClose();
      tell("positive", "Selection saved.", `${summary(data)}. The statuses below move by themselves.`);
      facts.selections.load();
      facts.images.load();
      facts.imports.load();
      return;
    } catch (problem) {
      refuse(problem);
    }
    busy.value = false;
  };

  const reload = () => {
    draft.value = new Map();
    forgetLoose();
    facts.selections.load();
    onClose();
  };

  useEffect(() => {
    prepare();
  }, []);

  if (overtaken.value) {
    return html`<${Dialog}
      title="The selection was changed meanwhile"
      onClose=${onClose}
      actions=${html`<button type="button" onClick=${reload}>Drop my changes and show theirs</button>
        <button type="button" class="primary" onClick=${prepare}>Put my changes on top of theirs</button>`}
    >
      <p>${overtaken.value.message}</p>
      <p>Nothing of yours was saved. Put on top, your changes are planned anew before anything happens.</p>
    <//>`;
  }
  const ready = plan.value && !busy.value;
  return html`<${Dialog}
    title="Save this selection?"
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Cancel</button>
      <button type="button" class="primary" disabled=${!ready} onClick=${save}>
        ${plan.value && plan.value.free_bytes_after < 0 ? "Save all the same" : "Save selection"}
      </button>`}
  >
    ${refused.value && html`<${Notice} kind="negative" title="Nothing was saved.">${refused.value.message}<//>`}
    ${plan.value
      ? html`<${Plan} plan=${plan.value} nameOf=${nameOf} />`
      : !refused.value && html`<p class="muted">Planning…</p>`}
  <//>`;
}
