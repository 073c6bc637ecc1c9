// Status icons: a ring as operators know it, with a sign inside, so that none is told by its colour alone.
import { html } from "../vendor/preact.js";

const RING = html`<circle cx="8" cy="8" r="6.5" class="icon-line" />`;

const SIGNS = {
  synced: html`${RING}<circle cx="8" cy="8" r="3.5" class="icon-fill" />`,
  stored: html`${RING}<path d="M5 8.2l2.2 2.2L11 6" class="icon-line" />`,
  waiting: html`${RING}<path d="M8 4.2V8l2.6 1.7" class="icon-line" />`,
  downloading: html`${RING}<path d="M8 4.5v6M5.4 8.2L8 10.8l2.6-2.6" class="icon-line" />`,
  queued: html`<circle cx="8" cy="8" r="6.5" class="icon-line icon-dashed" />`,
  failed: html`<path d="M8 1.5l6.8 12.3H1.2z" class="icon-line" /><path d="M8 6v4M8 11.4v1.2" class="icon-line" />`,
  gone: html`${RING}<path d="M3.6 12.4l8.8-8.8" class="icon-line" />`,
  added: html`${RING}<path d="M8 5v6M5 8h6" class="icon-line" />`,
  removed: html`${RING}<path d="M5 8h6" class="icon-line" />`,
  moved: html`${RING}<path d="M4.8 8h6M8.6 5.6L11 8l-2.4 2.4" class="icon-line" />`,
};

const TOOLS = {
  update: html`<path d="M13.5 8A5.5 5.5 0 1 1 11.6 3.8M11.8 1v3.2H8.6" class="icon-line" />`,
  pin: html`<path d="M5.5 1.8h5M6.4 1.8v4.4L4 9.2h8L9.6 6.2V1.8M8 9.2v5" class="icon-line" />`,
  unpin: html`<path d="M5.5 1.8h5M6.4 1.8v4.4L4 9.2h8L9.6 6.2V1.8M8 9.2v5M2 2l12 12" class="icon-line" />`,
  delete: html`<path d="M2.5 4h11M6 4V2h4v2M4 4l.7 10h6.6L12 4M6.6 6.6v5M9.4 6.6v5" class="icon-line" />`,
  undo: html`<path d="M5.5 3L2.5 6l3 3M2.5 6H10a3.5 3.5 0 0 1 0 7H6" class="icon-line" />`,
  close: html`<path d="M3 3l10 10M13 3L3 13" class="icon-line" />`,
};

/** The icon of a status; the word beside it speaks for screen readers. */
function StatusIcon({ name }) {
  return html`<svg class=${`icon icon-${name}`} viewBox="0 0 16 16" aria-hidden="true" focusable="false">
    ${SIGNS[name]}
  </svg>`;
}

export function ToolIcon({ name }) {
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false">${TOOLS[name]}</svg>`;
}

/** Icon and word of an entry of words.js. */
export function Status({ entry, children }) {
  return html`<span class="status" title=${entry.means}>
    <${StatusIcon} name=${entry.icon} /><span class="status-word">${entry.word}${children}</span>
  </span>`;
}
