// What is selected in other ways than by ticks: rules, and images with some of their kernels or labels. It is changed
// on the command line; here it is shown, and saved as it was said.
import { plural } from "./format.js";
import { imageId, isRule, meant } from "./selection.js";
import { html } from "../vendor/preact.js";

/** The list of it; nothing where ticks say it all. `nameOf(id)` gives an image's name. */
export function Said({ saved, nameOf }) {
  const entries = saved.filter((entry) => isRule(entry) || entry.kernels || entry.labels);
  if (entries.length === 0) return null;
  return html`<div role="group" aria-label="Rules and kernels">
    <p class="hint">Selected by rule, or with some kernels only; change it with “bootferry select”:</p>
    <ul class="plan-names">
      ${entries.map((entry) => html`<li key=${`${imageId(entry)} ${entry.source_id}`}>${told(entry, nameOf)}</li>`)}
    </ul>
  </div>`;
}

/** "ubuntu/lts:2/*: 24.04 LTS amd64, 26.04 LTS amd64; kernels ga". */
function told(entry, nameOf) {
  const { os, release, arch, kernels, labels } = entry;
  const images = meant(entry);
  const means = images.length > 4 ? plural(images.length, "image") : images.map(nameOf).join(", ");
  const said = isRule(entry) ? [means || "no image that is known"] : [];
  if (kernels) said.push(`kernels ${kernels.join(", ")}`);
  if (labels) said.push(`labels ${labels.join(", ")}`);
  return `${isRule(entry) ? `${os}/${release}/${arch}` : nameOf(imageId(entry))}: ${said.join("; ")}`;
}
