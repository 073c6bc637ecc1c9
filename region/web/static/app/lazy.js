// Parts that most visits do not need: their script comes when they are first shown.
import { html, useEffect, useSignal } from "../vendor/preact.js";

/** A component that stands for the one called `name` of a module; `come` imports it. */
export function lazy(come, name) {
  let Part = null;
  return function Lazy(given) {
    const isMissing = useSignal(false);
    const isHere = useSignal(Part !== null);
    useEffect(() => {
      if (Part) return;
      come().then(
        (module) => {
          Part = module[name];
          isHere.value = true;
        },
        () => {
          isMissing.value = true;
        },
      );
    }, []);
    if (isMissing.value) {
      return html`<p class="error" role="alert">
        The region did not send this part of the page; load the page again.
      </p>`;
    }
    return isHere.value ? html`<${Part} ...${given} />` : null;
  };
}
