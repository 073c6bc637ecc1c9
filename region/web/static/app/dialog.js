// A dialog: the browser's own, so that focus stays inside and Escape closes it; focus returns to where it was.
import { Busy } from "./notice.js";
import { html, useEffect, useId, useRef } from "../vendor/preact.js";

/** `onEscape` is called instead of `onClose` where Escape would lose something that is shown once. */
export function Dialog({ title, onClose, onEscape = onClose, children, actions, wide }) {
  const element = useRef(null);
  const heading = useId();
  useEffect(() => {
    const dialog = element.current;
    const before = document.activeElement;
    dialog.showModal();
    return () => {
      dialog.close();
      // The browser gives the focus back only where the dialog is still in the document when it is closed.
      setTimeout(() => {
        if (document.activeElement === document.body && before.isConnected) before.focus({ preventScroll: true });
      });
    };
  }, []);
  const cancel = (event) => {
    event.preventDefault();
    onEscape();
  };
  return html`<dialog ref=${element} class=${wide ? "dialog-wide" : ""} aria-labelledby=${heading} onCancel=${cancel}>
    <h2 id=${heading}>${title}</h2>
    <div class="dialog-body">${children}</div>
    <${Busy} />
    <div class="dialog-actions">${actions}</div>
  </dialog>`;
}
