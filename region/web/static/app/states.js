// How images are on racks: one table, of the racks of an image or of the images of a rack.
import { Status } from "./icons.js";
import { ON_RACK } from "./words.js";
import { html } from "../vendor/preact.js";

/** `rows` have a `name`, and `state`, `shown_version` and `code` as the region answers them. */
export function StateTable({ heading, rows }) {
  return html`<table role="table" class="stacked">
    <thead role="rowgroup">
      <tr role="row">
        ${[heading, "State", "Shows", "Why"].map(
          (title) => html`<th key=${title} role="columnheader" scope="col">${title}</th>`,
        )}
      </tr>
    </thead>
    <tbody role="rowgroup">
      ${rows.map(
        (one) => html`<tr role="row" key=${one.name}>
          <th role="rowheader" scope="row">${one.name}</th>
          <td role="cell" data-label="State"><${Status} entry=${ON_RACK[one.state]} /></td>
          <td role="cell" data-label="Shows">${one.shown_version || "–"}</td>
          <td role="cell" data-label="Why">${one.code || "–"}</td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}
