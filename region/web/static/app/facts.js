// What the page has read of the region. A fact is read again when the region says that it changed, and only while
// something on the page shows it; nothing on the page is ever computed from an event itself.
import { allItems, get, items, tagged } from "./api.js";
import { ANY } from "./selection.js";
import { end } from "./session.js";
import { signal, useEffect } from "../vendor/preact.js";

/**
 * A fact: `value` (null before the first reading), `problem` of the last reading, and when to read it again.
 * `restMs` is the least time between two readings, so that a busy import does not make the page ask all the time.
 */
export function fact(read, { restMs = 300 } = {}) {
  const value = signal(null);
  const problem = signal(null);
  let users = 0;
  let stale = true;
  let under = null; // the reading under way
  let timer = 0;
  let readAt = -Infinity;
  let notBefore = -Infinity; // a busy region says when it may be asked again

  async function once() {
    stale = false;
    readAt = performance.now();
    try {
      value.value = await read();
      problem.value = null;
    } catch (error) {
      if (error.status === 401) end();
      problem.value = error;
      if (error.retryAfterS) leaveAlone(error.retryAfterS * 1000);
    }
  }

  function leaveAlone(ms) {
    notBefore = performance.now() + ms;
    clearTimeout(timer);
    timer = setTimeout(() => {
      timer = 0;
      if (users) load();
    }, ms);
  }

  /** Read now; what changed while a reading was under way is read once more. */
  async function load() {
    stale = true;
    if (under) return under;
    under = (async () => {
      do await once();
      while (stale && performance.now() >= notBefore);
      under = null;
    })();
    return under;
  }

  function changed() {
    stale = true;
    if (!users || timer) return;
    timer = setTimeout(() => {
      timer = 0;
      if (users && stale) load();
    }, Math.max(0, readAt + restMs - performance.now()));
  }

  function hold() {
    users += 1;
    if (stale && !under) load();
    return () => {
      users -= 1;
    };
  }

  function forget() {
    stale = true;
    value.value = null;
    problem.value = null;
  }

  return { value, problem, load, changed, hold, forget };
}

export const images = fact(() => allItems("/images"), { restMs: 500 });
export const selections = fact(() => tagged("/selections"), { restMs: 1000 });
export const sources = fact(() => items("/sources"));
/** What is held and nobody vouches for any longer. */
export const unvouched = fact(() => tagged("/unvouched"), { restMs: 1500 });
export const sync = fact(() => tagged("/sync"));
/** The newest imports, and of the one under way (or waiting) what it does for each image. */
export const imports = fact(async () => {
  const recent = await items("/imports?limit=20");
  const current = recent.find((entry) => entry.state === "running") || recent.find((entry) => entry.state === "queued");
  return { recent, current: current ? await get(`/imports/${current.id}`) : null };
}, { restMs: 500 });

/** The newest import that has ended; null before the first. */
export function lastEnded() {
  const { recent } = imports.value.value || { recent: [] };
  return recent.find((entry) => entry.state !== "queued" && entry.state !== "running") || null;
}

export const racks = fact(() => allItems("/racks"), { restMs: 500 });
export const bootloaders = fact(() => items("/bootloaders"), { restMs: 1500 });
export const storage = fact(() => get("/storage"), { restMs: 3000 });
export const activity = fact(() => get("/activity?limit=50"));
export const settings = fact(() => tagged("/settings"));
export const operatorTokens = fact(() => items("/operator-tokens"));
export const enrolmentTokens = fact(() => allItems("/enrolment-tokens"));

const offersBySource = new Map();

/** The fact of what a source offers, by its id; of ANY, each image as the source that wins it offers it. */
export function offersOf(from) {
  if (!offersBySource.has(from)) {
    const path = from === ANY ? "/available" : `/available?source_id=${from}`;
    offersBySource.set(from, fact(() => items(path), { restMs: 500 }));
  }
  return offersBySource.get(from);
}

/** Everything on offer that was read so far. */
export function knownOffers() {
  return [...offersBySource.values()].flatMap((one) => one.value.value || []);
}

const ALL = [
  images, selections, sources, unvouched, sync, imports, racks, bootloaders, storage, activity, settings,
  operatorTokens, enrolmentTokens,
];

/** Which facts may have changed when the region names a topic. */
const BY_TOPIC = {
  images: [images, selections, storage, bootloaders, unvouched],
  imports: [imports],
  manifest: [images, bootloaders, unvouched],
  racks: [racks, images, bootloaders],
  sources: [sources, images, unvouched, settings],
  sync: [sync, sources], // an import that ends has read the sources, well or not
  activity: [activity, operatorTokens, enrolmentTokens],
  settings: [settings],
};

export const TOPICS = Object.keys(BY_TOPIC);

/** Take in that a topic changed. */
export function changed(topic) {
  for (const one of BY_TOPIC[topic]) one.changed();
  if (topic === "sources" || topic === "sync") for (const one of offersBySource.values()) one.changed();
}

/** Nothing that was read for one person is left for the next. */
export function forgetAll() {
  for (const one of ALL) one.forget();
  offersBySource.clear();
}

/** While the component is there, these facts are kept up to date. */
export function useFacts(...facts) {
  useEffect(() => {
    const releases = facts.map((one) => one.hold());
    return () => releases.forEach((release) => release());
  }, facts);
}
