// The selection: what is saved on the region, and on top of it the draft, which is what somebody ticked here and has
// not saved. A draft says for an image which source it shall come from, or null to unselect it. As it holds
// differences only, it stays right when somebody else changes the selection meanwhile. Rules, kernels and labels are
// not changed here: they are shown, and sent back as they were said.
import { signal } from "../vendor/preact.js";

/** Instead of a source's id: whichever source wins the image, now and later. The API says null for it. */
export const ANY = "any";

/** Image id -> source id or ANY; null: no longer wanted. */
export const draft = signal(new Map());

export function imageId({ os, release, arch }) {
  return `${os}:${release}:${arch}`;
}

export function parseId(id) {
  const [os, release, arch] = id.split(":");
  return { os, release, arch };
}

/** The ids of the images that a saved wish means. */
export function meant(entry) {
  return entry.images || [imageId(entry)];
}

/** True for a wish that does not name the images it means. */
export function isRule(entry) {
  return meant(entry).join() !== imageId(entry);
}

/** The ids of the images that rules mean: they cannot be unselected one by one. */
export function byRule(saved) {
  return new Set(saved.filter(isRule).flatMap(meant));
}

/** Image id -> set of what it is wanted from, source ids or ANY. */
export function bySource(saved) {
  const wanted = new Map();
  for (const entry of saved) {
    for (const id of meant(entry)) {
      if (!wanted.has(id)) wanted.set(id, new Set());
      wanted.get(id).add(entry.source_id ?? ANY);
    }
  }
  return wanted;
}

/** The draft with one more wish; wishes that are true already, or that a rule is against, are not kept. Pure. */
export function wish(current, saved, id, from) {
  const next = new Map(current);
  if (from === null && byRule(saved).has(id)) {
    next.delete(id);
    return next;
  }
  const before = bySource(saved).get(id);
  const isSo = from === null ? !before : Boolean(before) && before.size === 1 && before.has(from);
  if (isSo) next.delete(id);
  else next.set(id, from);
  return next;
}

/** True if the image will be selected once the draft is saved. */
export function isWanted(current, wanted, id) {
  return current.has(id) ? current.get(id) !== null : wanted.has(id);
}

/** What the draft says of an image: "added", "removed", "moved", or null. */
export function drafted(current, wanted, id) {
  if (!current.has(id)) return null;
  if (current.get(id) === null) return wanted.has(id) ? "removed" : null;
  return wanted.has(id) ? "moved" : "added";
}

/** The whole selection with the draft applied: what PUT /selections takes. Pure. */
export function whole(current, saved) {
  const said = ({ os, release, arch, source_id, kernels = null, labels = null }) => ({
    os,
    release,
    arch,
    source_id,
    kernels,
    labels,
  });
  const kept = saved.filter((entry) => !current.has(imageId(entry))).map(said);
  const added = [...current]
    .filter(([, from]) => from !== null)
    .map(([id, from]) => {
      // From another source it is wanted with the same kernels and labels.
      const before = saved.find((entry) => imageId(entry) === id);
      return said({ ...before, ...parseId(id), source_id: from === ANY ? null : from });
    });
  return [...kept, ...added];
}

/** The wishes of a draft that the saved selection does not fulfil yet. Pure. */
export function unfulfilled(current, saved) {
  let rest = current;
  for (const [id, from] of current) rest = wish(rest, saved, id, from);
  return rest;
}
