// The region's HTTP API, which serves this page, the command line and curl alike.

const BASE = "/api/v1";
const PATIENCE_MS = 60_000;

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

/** The answer to one request: { status, data, etag }. Throws Problem. */
export async function call(method, path, { body, ifMatch } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (ifMatch) headers["If-Match"] = ifMatch;
  let answer;
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
  }
  const isJson = /json/.test(answer.headers.get("Content-Type") || "");
  const data = isJson ? await answer.json().catch(() => null) : null;
  if (!answer.ok) throw new Problem(answer.status, data || {}, Number(answer.headers.get("Retry-After")) || 0);
  return { status: answer.status, data, etag: answer.headers.get("ETag") };
}

/** What is at `path`, with its `etag`: it names what was seen, for the If-Match of a change. Throws Problem. */
export async function tagged(path) {
  const { data, etag } = await call("GET", path);
  return { ...data, etag };
}

/** What is at `path`. */
export async function get(path) {
  return (await call("GET", path)).data;
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
