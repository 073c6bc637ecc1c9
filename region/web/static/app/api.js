// The region's HTTP API, which serves this page, the command line and curl alike. A region that answers 503 and says for
// how long is asked again when that is over: `call` does so itself; who reads with `get` and its like does it when due.
import { plural } from "./format.js";
import { heard, waiting } from "./liveness.js";
import { signal } from "../vendor/preact.js";

const BASE = "/api/v1";
const PATIENCE_MS = 60_000;
const ATTEMPTS = 4;
const MOST_ASKED_S = 30; // who asks for more is left alone: somebody waits for the answer

/** In how many seconds a busy region is asked again for what somebody does here; 0 while nobody waits. */
export const waits = signal(0);

/**
 * A refusal. `message` is one sentence that says what to do, `code` is stable, `status` 0 means: no answer came.
 * `retryAfterS` is for how many seconds the region asks to be left alone, 0 where it does not say.
 */
export class Problem extends Error {
  constructor(status, { detail, code, request_id: requestId } = {}, retryAfterS = 0) {
    super(detail || `The region answered ${status}; try again.`);
    this.status = status;
    this.code = code || "";
    this.requestId = requestId || "";
    this.retryAfterS = retryAfterS;
  }
}

/** The answer to one request: { status, data, etag }; a busy region is asked again. Throws Problem. */
export async function call(method, path, given) {
  for (let failures = 1; ; failures += 1) {
    try {
      return await ask(method, path, given);
    } catch (problem) {
      if (failures === ATTEMPTS || !mayBeAskedAgain(method, problem)) throw problem;
      waits.value = problem.retryAfterS;
      await new Promise((over) => setTimeout(over, problem.retryAfterS * 1000));
      waits.value = 0;
    }
  }
}

/** A change may have been made when its answer failed: only who was not let in knows that nothing was begun. */
function mayBeAskedAgain(method, { status, code, retryAfterS }) {
  const isShort = retryAfterS > 0 && retryAfterS <= MOST_ASKED_S;
  return status === 503 && isShort && (method === "GET" || code === "crowded");
}

/** The answer to one request, asked once. Throws Problem. */
async function ask(method, path, { body, ifMatch } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (ifMatch) headers["If-Match"] = ifMatch;
  let answer;
  const answered = waiting();
  try {
    answer = await fetch(BASE + path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-cache",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch {
    throw new Problem(0, { code: "no_answer", detail: "The region does not answer; check your network and the region." });
  } finally {
    answered();
  }
  const isJson = /json/.test(answer.headers.get("Content-Type") || "");
  // What a proxy says in the region's place is no word of the region.
  if (isJson || answer.ok) heard();
  const data = isJson ? await answer.json().catch(() => null) : null;
  if (!answer.ok) throw new Problem(answer.status, data || {}, Number(answer.headers.get("Retry-After")) || 0);
  return { status: answer.status, data, etag: answer.headers.get("ETag") };
}

/** What is at `path`, with its `etag`: it names what was seen, for the If-Match of a change. Throws Problem. */
export async function tagged(path) {
  const { data, etag } = await read(path);
  return { ...data, etag };
}

/** What is at `path`. */
export async function get(path) {
  return (await read(path)).data;
}

/** The answer to a reading. A Problem with `retryAfterS` is for the reader to wait out, and says that it is. */
async function read(path) {
  try {
    return await ask("GET", path);
  } catch (problem) {
    if (problem.retryAfterS) problem.message += ` The page asks again in ${plural(problem.retryAfterS, "second")}.`;
    throw problem;
  }
}

/** The items of all pages of a list; `path` has no query. */
export async function allItems(path) {
  const found = [];
  let cursor = null;
  do {
    const page = await get(`${path}?limit=1000${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
    found.push(...page.items);
    cursor = page.next;
  } while (cursor);
  return found;
}

/** The items of a list that fits on one page. */
export async function items(path) {
  return (await get(path)).items;
}
