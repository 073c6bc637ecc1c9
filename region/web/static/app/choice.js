// The boxes people tick: Ubuntu's releases and architectures, and the other images one by one.
import { byName, month, newestFirst } from "./format.js";
import { byRule, bySource, draft, imageId, isWanted, parseId, wish } from "./selection.js";
import { boxes, toggleArch, toggleRelease } from "./ticks.js";
import { fullTitle } from "./words.js";
import { html, signal, useLayoutEffect, useRef } from "../vendor/preact.js";

const BY_RULE = "by a rule";

/** Ticks of Ubuntu's boxes that make no image yet. */
export const loose = signal({ releases: new Set(), arches: new Set() });

export function forgetLoose() {
  loose.value = { releases: new Set(), arches: new Set() };
}

function apply(saved, from, { add, remove, loose: rest }) {
  let next = draft.value;
  const wanted = bySource(saved);
  for (const image of remove) next = wish(next, saved, imageId(image), null);
  for (const image of add) {
    const id = imageId(image);
    // An image that was unticked and is ticked again comes from where it came from.
    if (wanted.has(id) && next.get(id) === null) next = withoutWish(next, id);
    else next = wish(next, saved, id, from);
  }
  draft.value = next;
  if (rest) loose.value = rest;
}

function withoutWish(current, id) {
  const next = new Map(current);
  next.delete(id);
  return next;
}

/** Take back what was ticked or unticked for one image. */
export function takeBack(id) {
  draft.value = withoutWish(draft.value, id);
}

/** The images of a draft and a saved selection together, as parsed ids. */
function wantedImages(saved, os) {
  const wanted = bySource(saved);
  return [...new Set([...wanted.keys(), ...draft.value.keys()])]
    .filter((id) => isWanted(draft.value, wanted, id))
    .map(parseId)
    .filter((image) => image.os === os);
}

function Tick({ id, label, note, checked, partly, disabled, onToggle }) {
  const box = useRef(null);
  useLayoutEffect(() => {
    box.current.indeterminate = Boolean(partly);
    // The signal may say what the box said before the click: then nothing would be drawn anew.
    box.current.checked = checked;
  });
  return html`<div class="tick">
    <input
      ref=${box}
      type="checkbox"
      id=${id}
      checked=${checked}
      disabled=${disabled}
      aria-describedby=${note ? `${id}-note` : null}
      onChange=${(event) => onToggle(event.currentTarget.checked)}
    />
    <label for=${id}>${label}</label>${note && html`<span class="tick-note" id=${`${id}-note`}>${note}</span>`}
  </div>`;
}

function releasesOf(offered, known) {
  const found = new Map();
  for (const offer of offered) {
    if (!found.has(offer.release)) found.set(offer.release, { ...offer, offered: true });
  }
  for (const image of known) {
    if (!found.has(image.release)) found.set(image.release, { ...image, lts: / LTS$/.test(image.title), offered: false });
  }
  return [...found.values()].sort((a, b) => newestFirst(a.title, b.title));
}

function releaseNote({ support_eol: end, offered }, now) {
  if (!offered) return "not offered by this source";
  if (end && Date.parse(end) < now) return `support ended ${month(end)}`;
  return null;
}

/**
 * Ubuntu's boxes. `offers`: what the chosen source offers; `from`: what is ticked is wanted from there; `known`: images
 * of the region, whose titles may be needed.
 */
export function UbuntuChoice({ offers, known, saved, from, now, disabled }) {
  const offered = offers.filter((offer) => offer.os === "ubuntu");
  const wanted = wantedImages(saved, "ubuntu");
  const titled = known.filter(
    (image) => image.os === "ubuntu" && wanted.some(({ release }) => release === image.release),
  );
  const releases = releasesOf(offered, titled);
  const titles = new Map(releases.map((release) => [release.release, release.title]));
  const { releases: ticked, arches } = boxes(offered, wanted, loose.value);
  const columns = [
    ["LTS", releases.filter((release) => release.lts)],
    ["Other releases", releases.filter((release) => !release.lts)],
  ];
  const names = [...arches.keys()].sort(byName);
  const half = Math.ceil(names.length / 2);
  const isRead = offers.length > 0; // of a source that was not read yet nothing can be said
  const ruled = byRule(saved);
  // Nothing is left to untick of what rules alone mean.
  const isRuled = (field, value) => {
    const of = wanted.filter((image) => image[field] === value);
    return of.length > 0 && of.every((image) => ruled.has(imageId({ os: "ubuntu", ...image })));
  };
  const without = [...ticked].filter((release) => !wanted.some((image) => image.release === release));
  const onRelease = (release) => (on) =>
    apply(saved, from, toggleRelease(release, on, offered, wanted, loose.value));
  const onArch = (arch) => (on) => apply(saved, from, toggleArch(arch, on, offered, wanted, loose.value));

  return html`<div class="choice">
    <fieldset class="choice-releases">
      <legend>Images</legend>
      <div class="columns">
        ${columns.map(
          ([title, group]) => html`<div key=${title} role="group" aria-label=${title}>
            ${group.map(
              (release) => html`<${Tick}
                key=${release.release}
                id=${`release-${release.release}`}
                label=${release.title}
                note=${isRuled("release", release.release) ? BY_RULE : isRead && releaseNote(release, now)}
                checked=${ticked.has(release.release)}
                disabled=${disabled ||
                isRuled("release", release.release) ||
                (!release.offered && !ticked.has(release.release))}
                onToggle=${onRelease(release.release)}
              />`,
            )}
          </div>`,
        )}
      </div>
    </fieldset>
    <fieldset class="choice-arches">
      <legend>Architectures</legend>
      <div class="columns">
        ${[names.slice(0, half), names.slice(half)].map(
          (group, column) => html`<div key=${column}>
            ${group.map((arch) => {
              const box = arches.get(arch);
              const fixed = box.checked && isRuled("arch", arch);
              return html`<${Tick}
                key=${arch}
                id=${`arch-${arch}`}
                label=${arch}
                note=${fixed ? BY_RULE : isRead && archNote(box, titles)}
                checked=${box.checked}
                partly=${box.partly}
                disabled=${disabled || fixed || box.disabled}
                onToggle=${onArch(arch)}
              />`;
            })}
          </div>`,
        )}
      </div>
    </fieldset>
    ${without.length > 0 &&
    html`<p class="hint" role="status">
      Choose an architecture for ${without.map((release) => titles.get(release) || release).join(" and ")}.
    </p>`}
  </div>`;
}

function archNote({ lackedBy, partly }, titles) {
  const lacking = lackedBy.map((release) => titles.get(release) || release);
  if (lacking.length > 2) return `not for ${lacking.length} of the chosen releases`;
  if (lacking.length > 0) return `not for ${lacking.join(" and ")}`;
  return partly ? "for some of the releases" : null;
}

/** The boxes of all that is not Ubuntu. */
export function OtherChoice({ offers, known, saved, from, now, disabled }) {
  const wanted = bySource(saved);
  const ruled = byRule(saved);
  const found = new Map();
  for (const offer of offers) if (offer.os !== "ubuntu") found.set(imageId(offer), { ...offer, offered: true });
  for (const image of known) {
    if (image.os !== "ubuntu" && isWanted(draft.value, wanted, image.id) && !found.has(image.id)) {
      found.set(image.id, { ...image, offered: false });
    }
  }
  const others = [...found].sort(([, a], [, b]) => byName(a.os, b.os) || newestFirst(a.title, b.title));
  const archesOf = (one) => others.filter(([, { os, release }]) => os === one.os && release === one.release).length;
  return html`<fieldset class="choice-others">
    <legend class="unseen">Other images</legend>
    <div class="columns columns-3">
      ${others.map(
        ([id, offer]) => html`<${Tick}
          key=${id}
          id=${`image-${id}`}
          label=${fullTitle(offer.os, offer.title) + (archesOf(offer) > 1 ? ` ${offer.arch}` : "")}
          note=${ruled.has(id) ? BY_RULE : offers.length > 0 && releaseNote(offer, now)}
          checked=${isWanted(draft.value, wanted, id)}
          disabled=${disabled || ruled.has(id)}
          onToggle=${(on) => apply(saved, from, on ? { add: [offer], remove: [] } : { add: [], remove: [offer] })}
        />`,
      )}
    </div>
  </fieldset>`;
}
