// The selection: what is saved on the region, and on top of it the draft, which is what somebody ticked here and has
// not saved. A draft says for an image which source it shall come from, or null to unselect it. As it holds
// differences only, it stays right when somebody else changes the selection meanwhile.
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

/** Image id -> set of what it is wanted from, source ids or ANY. */
export function bySource(saved) {
  const wanted = new Map();
  for (const entry of saved) {
    const id = imageId(entry);
    if (!wanted.has(id)) wanted.set(id, new Set());
    wanted.get(id).add(entry.source_id ?? ANY);
  }
  return wanted;
}

/** The draft with one more wish; wishes that are true already are not kept. Pure. */
export function wish(current, saved, id, from) {
  const next = new Map(current);
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
  const kept = saved
    .filter((entry) => !current.has(imageId(entry)))
    .map(({ os, release, arch, source_id }) => ({ os, release, arch, source_id }));
  const added = [...current]
    .filter(([, from]) => from !== null)
    .map(([id, from]) => ({ ...parseId(id), source_id: from === ANY ? null : from }));
  return [...kept, ...added];
}

/** The wishes of a draft that the saved selection does not fulfil yet. Pure. */
export function unfulfilled(current, saved) {
  let rest = current;
  for (const [id, from] of current) rest = wish(rest, saved, id, from);
  return rest;
}
