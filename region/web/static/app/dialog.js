// A dialog: the browser's own, so that focus stays inside, Escape closes it, and focus returns to where it was.
import { html, useEffect, useId, useRef } from "../vendor/preact.js";

export function Dialog({ title, onClose, children, actions, wide }) {
  const element = useRef(null);
  const heading = useId();
  useEffect(() => {
    const dialog = element.current;
    dialog.showModal();
    return () => dialog.close();
  }, []);
  const cancel = (event) => {
    event.preventDefault();
    onClose();
  };
  return html`<dialog ref=${element} class=${wide ? "dialog-wide" : ""} aria-labelledby=${heading} onCancel=${cancel}>
    <h2 id=${heading}>${title}</h2>
    <div class="dialog-body">${children}</div>
    <div class="dialog-actions">${actions}</div>
  </dialog>`;
}
