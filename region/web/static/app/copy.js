// A text to take along: shown, and copied at a click.
import { html, useRef, useSignal } from "../vendor/preact.js";

/** Put `element`'s text on the clipboard. The clipboard API is there on https only; the older way works everywhere. */
async function copy(element) {
  if (navigator.clipboard && isSecureContext) {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  }
  getSelection().selectAllChildren(element);
  return document.execCommand("copy");
}

export function Copyable({ label, text }) {
  const element = useRef(null);
  const said = useSignal("Copy");
  const onCopy = async () => {
    const done = await copy(element.current).catch(() => false);
    said.value = done ? "Copied" : "Press Ctrl+C";
  };
  return html`<div class="copyable">
    <span class="copyable-label">${label}</span>
    <code ref=${element} tabindex="0">${text}</code>
    <button type="button" aria-label=${`${said.value}: ${label}`} onClick=${onCopy}>${said}</button>
  </div>`;
}
