// Racks that keep what the manifest takes away: they are named, and an operator confirms that they may drop it.
import { call } from "./api.js";
import { Dialog } from "./dialog.js";
import * as facts from "./facts.js";
import { plural } from "./format.js";
import { Notice, tell } from "./notice.js";
import { html, useSignal } from "../vendor/preact.js";

/** The racks that wait for an operator. Pure. */
export function waiting(racks) {
  return racks.filter((rack) => rack.status === "waiting_for_operator");
}

/** Which racks wait for an operator; what can be done about it are its `children`. */
export function WaitingRacks({ racks, children }) {
  const found = waiting(racks);
  if (found.length === 0) return null;
  const [waits, keeps] = found.length === 1 ? ["waits", "It keeps"] : ["wait", "They keep"];
  return html`<${Notice} kind="caution" title=${`${plural(found.length, "rack")} ${waits} for an operator:`}>
    ${found.map((rack) => rack.name).join(", ")}. ${keeps} serving images that the region's manifest takes away, until
    an operator confirms that.${children}
  <//>`;
}

/** Ask before all racks may drop what the manifest takes away. */
export function Confirm({ racks, onClose }) {
  const refused = useSignal(null);
  const busy = useSignal(false);
  const found = waiting(racks);
  const confirm = async () => {
    busy.value = true;
    refused.value = null;
    try {
      await call("POST", "/manifest/confirmation");
      onClose();
      tell("positive", "Confirmed.", "Racks take what the manifest takes away with their next poll.");
      facts.racks.load();
    } catch (problem) {
      refused.value = problem;
      busy.value = false;
    }
  };
  return html`<${Dialog}
    wide
    title="Let racks drop images?"
    onClose=${onClose}
    actions=${html`<button type="button" onClick=${onClose}>Cancel</button>
      <button type="button" class="negative" disabled=${busy.value} onClick=${confirm}>Let racks drop them</button>`}
  >
    ${refused.value && html`<${Notice} kind="negative" title="Nothing was confirmed.">${refused.value.message}<//>`}
    <p>
      More than half of the images that these racks show would go. Look first whether the region publishes what you want:
      was its database emptied, or restored?
    </p>
    <table role="table" class="stacked waiting-racks" aria-label="Racks that wait">
      <thead role="rowgroup">
        <tr role="row">
          <th role="columnheader" scope="col">Rack</th>
          <th role="columnheader" scope="col">What it says</th>
        </tr>
      </thead>
      <tbody role="rowgroup">
        ${found.map(
          (rack) => html`<tr role="row" key=${rack.id}>
            <th role="rowheader" scope="row">${rack.name}</th>
            <td role="cell" data-label="What it says">${rack.last_error}</td>
          </tr>`,
        )}
      </tbody>
    </table>
    <p>It is confirmed for every rack, for the manifest as it is now. Machines lose those images with their rack's next poll.</p>
  <//>`;
}
