// What the page has to say to people: notices in the page, and sentences for those who only listen.
import { waits } from "./api.js";
import { plural } from "./format.js";
import { ToolIcon } from "./icons.js";
import { liveness } from "./liveness.js";
import { html, signal, useEffect } from "../vendor/preact.js";

const GOOD_NEWS_MS = 10_000;

/** The outcome of the last thing somebody did here: { kind, title, text } or null. */
export const outcome = signal(null);

/** What a screen reader says next. */
export const spoken = signal("");

export function tell(kind, title, text = "") {
  outcome.value = { kind, title, text };
  spoken.value = `${title} ${text}`.trim();
}

/** Say why something was not done. */
export function tellProblem(title, problem) {
  tell("negative", title, problem.message);
}

/** A notice of `kind` positive, information, caution or negative. */
export function Notice({ kind = "information", title, children, onClose }) {
  return html`<div class=${`notice notice-${kind}`} role=${kind === "negative" ? "alert" : null}>
    <div class="notice-text"><strong class="notice-title">${title}</strong> ${children}</div>
    ${onClose &&
    html`<button type="button" class="tool" aria-label="Close this notice" onClick=${onClose}>
      <${ToolIcon} name="close" />
    </button>`}
  </div>`;
}

/** The outcome, over the page rather than in it, so that nothing jumps. Good news leaves by itself. */
export function Outcome() {
  const said = outcome.value;
  const close = () => {
    outcome.value = null;
  };
  useEffect(() => {
    if (!said || said.kind === "negative") return undefined;
    const timer = setTimeout(close, GOOD_NEWS_MS);
    return () => clearTimeout(timer);
  }, [said]);
  if (!said) return null;
  return html`<div class="outcome">
    <${Notice} kind=${said.kind} title=${said.title} onClose=${close}>${said.text}<//>
  </div>`;
}

/** That a busy region is asked again soon for what somebody does; stands wherever that is done. */
export function Busy() {
  const seconds = waits.value;
  return html`<p class="busy" role="status">
    ${seconds > 0 && `The region is busy; it is asked again in ${plural(seconds, "second")}.`}
  </p>`;
}

/** That what is on the page may be old, or that it takes its time to come. */
export function Liveness() {
  return html`<div class="liveness" role="status">
    ${liveness.value === "silent" &&
    html`<${Notice} kind="caution" title="No word from the region for 40 seconds; what you see may be old." />`}
    ${liveness.value === "slow" && html`<${Notice} kind="caution" title="The region is slow to answer." />`}
  </div>`;
}

export function Spoken() {
  return html`<div class="unseen" role="status" aria-live="polite">${spoken}</div>`;
}
