// A dialog that asks before one act on one thing, which is done to the thing as it was when the dialog opened.
import { useAnswer } from "./answer.js";
import { call, tagged } from "./api.js";
import { Dialog } from "./dialog.js";
import { Notice, tell } from "./notice.js";
import { html, useSignal } from "../vendor/preact.js";

/**
 * `of` is the path of the thing; `method` and `path` say what is done, `button` names it. `done` and `refused` are the
 * titles of what is told then, `follows` what it means; `fact` is read again. Who has seen something old is shown
 * what there is now, and asked again.
 */
export function ActDialog({ title, of, method, path, button, done, follows, refused, fact, onClose, children }) {
  const again = useSignal(0);
  const { answer: seen, problem } = useAnswer(() => tagged(of), again.value);
  const refusal = useSignal(null);
  const busy = useSignal(false);
  const act = async () => {
    busy.value = true;
    refusal.value = null;
    try {
      await call(method, path, { ifMatch: seen.etag });
      onClose();
      tell("positive", done, follows);
    } catch (error) {
      refusal.value = error;
      if (error.status === 412) again.value += 1;
      busy.value = false;
    }
    fact.load();
  };
  const said = refusal.value || problem;
  return html`<${Dialog}
    title=${title}
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Cancel</button>
      <button type="button" class="negative" disabled=${busy.value || !seen} onClick=${act}>${button}</button>`}
  >
    ${said && html`<${Notice} kind="negative" title=${refused}>${said.message}<//>`}
    ${children}
  <//>`;
}
