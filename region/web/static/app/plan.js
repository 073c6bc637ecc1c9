// The plan: what a change leads to, shown before anything happens.
import { byName, plural, size } from "./format.js";
import { Notice } from "./notice.js";
import { bootloaderName } from "./words.js";
import { html } from "../vendor/preact.js";

/** "+3 images, −1: 2.1 GB to fetch": the plan in one line. Pure. */
export function summary({ add, remove, fetch_bytes: bytes }) {
  const parts = [];
  if (add.length) parts.push(`+${plural(add.length, "image")}`);
  if (remove.length) parts.push(add.length ? `−${remove.length}` : `−${plural(remove.length, "image")}`);
  return `${parts.join(", ") || "No image more or less"}; ${bytes ? `${size(bytes)} to fetch` : "nothing to fetch"}`;
}

/** What becomes of a bootloader, as the command line says it too. */
const BOOTLOADERS = [
  ["bootloaders_add", "+", "comes with it"],
  ["bootloaders_change", "~", "is replaced"],
  ["bootloaders_withdraw", "−", "is withdrawn"],
];

/** The plan itself. `nameOf(id)` gives an image's name. */
export function Plan({ plan, nameOf }) {
  const { moved } = plan;
  const after = plan.free_bytes_after;
  const rack = plan.tightest_rack;
  return html`<p class="plan-summary">${summary(plan)}</p>
    <dl class="plan">
      ${plan.add.length > 0 && html`<${Names} sign="+" title="To download" ids=${plan.add} nameOf=${nameOf} />`}
      ${plan.remove.length > 0 && html`<${Names} sign="−" title="To delete" ids=${plan.remove} nameOf=${nameOf} />`}
      ${moved.length > 0 && html`<${Names} sign="→" title="To change source" ids=${moved} nameOf=${nameOf} />`}
      <${Kernels} plan=${plan} nameOf=${nameOf} />
      <${Bootloaders} plan=${plan} />
      <dt>To fetch</dt>
      <dd>
        ${size(plan.fetch_bytes)} <span class="muted">files that images share are counted once</span>
        ${plan.left_out_bytes > 0 &&
        html`<span class="muted">; kernels that are left out spare ${size(plan.left_out_bytes)}</span>`}
      </dd>
      <dt>Free afterwards</dt>
      <dd>
        <${Room} where="on the region" before=${plan.free_bytes} after=${after} />
        ${rack &&
        html`<${Room}
          where=${`on ${rack.name}, the tightest rack`}
          before=${rack.free_bytes}
          after=${rack.free_bytes_after}
        />`}
      </dd>
    </dl>
    ${moved.length > 0 &&
    html`<p>What is held of these images stays and is served until all of the new source's version is stored.</p>`}
    ${plan.unavailable.length > 0 &&
    html`<${Notice} kind="caution" title="Not offered at present:">
      ${plan.unavailable.map(nameOf).join(", ")}. What is held of them is kept.
    <//>`}
    <${Warnings} plan=${plan} />
    ${after < 0 &&
    html`<${Notice} kind="negative" title="It does not fit on the region.">
      ${size(-after)} are missing. Select fewer images, or free some room first.
    <//>`}
    ${rack && rack.free_bytes_after < 0 &&
    html`<${Notice} kind="negative" title=${`It does not fit on ${rack.name}.`}>
      ${size(-rack.free_bytes_after)} are missing there; it would go on serving what it has.
    <//>`}`;
}

export function Names({ sign, title, ids, nameOf }) {
  return html`<dt>${title}</dt>
    <dd>
      <ul class="plan-names">
        ${[...ids].map(nameOf).sort().map((name) => html`<li key=${name}>${sign} ${name}</li>`)}
      </ul>
    </dd>`;
}

/** Kernels that come and go, of images that stay selected. */
function Kernels({ plan, nameOf }) {
  const lines = [
    ["+", plan.kernels_add],
    ["−", plan.kernels_remove],
  ].flatMap(([sign, kernels]) =>
    Object.entries(kernels)
      .filter(([image]) => !plan.add.includes(image))
      .map(([image, names]) => `${sign} ${nameOf(image)}: ${names.join(", ")}`),
  );
  if (lines.length === 0) return null;
  return html`<dt>Kernels</dt>
    <dd>
      <ul class="plan-names">
        ${lines.map((line) => html`<li key=${line}>${line}</li>`)}
      </ul>
    </dd>`;
}

/** What to think about before it is done. */
export function Warnings({ plan }) {
  return plan.warnings.map(
    (warning) => html`<${Notice} key=${warning} kind="caution" title="Mind this:">${warning}<//>`,
  );
}

/** The bootloaders that a plan adds, replaces or withdraws: a term and its description, for a list of such. */
export function Bootloaders({ plan }) {
  const lines = BOOTLOADERS.flatMap(([field, sign, remark]) =>
    [...plan[field]].map((id) => [sign, bootloaderName(id), remark]),
  ).sort(([, a], [, b]) => byName(a, b));
  if (lines.length === 0) return null;
  return html`<dt>Bootloaders</dt>
    <dd>
      <ul class="plan-names">
        ${lines.map(
          ([sign, name, remark]) => html`<li key=${sign + name}>
            ${sign} ${name} <span class="muted">${remark}</span>
          </li>`,
        )}
      </ul>
    </dd>`;
}

function Room({ where, before, after }) {
  return html`<span class="plan-room">
    <b class=${after < 0 ? "error" : ""}>${after < 0 ? `−${size(-after)}` : size(after)}</b> ${where}
    ${after !== before && html`<span class="muted"> now ${size(before)}</span>`}
  </span>`;
}
