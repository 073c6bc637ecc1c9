// A progress bar with a name for those who do not see it.
import { html } from "../vendor/preact.js";

/** `value` of `max`; without `value` it is under way, nobody knows how far. */
export function Bar({ label, value, max = 100 }) {
  return html`<progress aria-label=${label} value=${value} max=${max}></progress>`;
}
