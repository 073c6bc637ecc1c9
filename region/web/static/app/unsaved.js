// What was ticked and is not saved: a bar that stays in sight, and a question before the page is left.
import { forgetLoose } from "./choice.js";
import { plural, size } from "./format.js";
import { draft } from "./selection.js";
import { html, useEffect } from "../vendor/preact.js";

/** The bar; nothing while nothing is unsaved. `bytes` is what is added, and `onReview` opens the plan. */
export function Unsaved({ bytes, onReview }) {
  const changes = draft.value.size;
  useEffect(() => {
    if (changes === 0) return undefined;
    const ask = (event) => event.preventDefault();
    addEventListener("beforeunload", ask);
    return () => removeEventListener("beforeunload", ask);
  }, [changes === 0]);
  if (changes === 0) return null;
  const discard = () => {
    draft.value = new Map();
    forgetLoose();
  };
  return html`<div class="unsaved" role="region" aria-label="Not saved">
    <span role="status">${plural(changes, "change")}${bytes > 0 && `: +${size(bytes)}`}</span>
    <button type="button" class="link" onClick=${discard}>Discard</button>
    <button type="button" class="primary" onClick=${onReview}>Review and save</button>
  </div>`;
}
