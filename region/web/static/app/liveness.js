// Whether the region is there at all: when it was last heard of, and whether somebody waits long for an answer.
import { signal } from "../vendor/preact.js";

const SILENT_MS = 40_000; // the event stream says something every 15 seconds, whatever happens
const SLOW_MS = 10_000;
const LOOK_MS = 1_000;

/** "" when all is well, "slow" (an answer takes long), or "silent" (no word at all for a while). */
export const liveness = signal("");

const asked = new Set();
let heardAt = performance.now();

/** The region has said something just now. */
export function heard() {
  heardAt = performance.now();
  if (liveness.value === "silent") liveness.value = "";
}

/** Somebody waits for an answer until what this returns is called. */
export function waiting() {
  const since = { at: performance.now() };
  asked.add(since);
  return () => asked.delete(since);
}

/** What there is to say `at` a time, when the region was last heard of and the oldest wait began. Pure. */
export function judge(at, heardOf, askedSince) {
  if (at - heardOf >= SILENT_MS) return "silent";
  return at - askedSince >= SLOW_MS ? "slow" : "";
}

let lookedAt = performance.now();

setInterval(() => {
  const at = performance.now();
  // A computer that slept has not listened.
  if (at - lookedAt > 10 * LOOK_MS) heardAt = Math.max(heardAt, at - SLOW_MS);
  lookedAt = at;
  liveness.value = judge(at, heardAt, Math.min(...[...asked].map((since) => since.at)));
}, LOOK_MS);
