// Who is logged in here: a server-side session, whose cookie no script can read.
import { call, get } from "./api.js";
import { signal } from "../vendor/preact.js";

const VISITED = "bootferry-visited";
const ROLES = ["viewer", "operator", "admin"];

/** undefined while unknown, null when nobody is logged in, else { name, role, expires_at }. */
export const session = signal(undefined);

/** Why somebody must log in again; empty when they never did. */
export const sessionEnded = signal("");

/** True if who is logged in has at least `role`. The region decides; the page only spares people a refusal. */
export function may(role) {
  return Boolean(session.value) && ROLES.indexOf(session.value.role) >= ROLES.indexOf(role);
}

/** Take up the session of an earlier visit. A browser that never logged in here is not made to ask. */
export async function resume() {
  if (!localStorage.getItem(VISITED)) {
    session.value = null;
    return;
  }
  try {
    session.value = await get("/session");
  } catch (problem) {
    if (problem.status !== 401) throw problem;
    localStorage.removeItem(VISITED);
    session.value = null;
  }
}

/** True if the log-in happened on this very page, so whoever reads it aloud is to be taken on. */
export const isFresh = signal(false);

/** Turn a token into a session. Throws Problem. */
export async function logIn(token) {
  const { data } = await call("POST", "/session", { body: { token } });
  localStorage.setItem(VISITED, "yes");
  sessionEnded.value = "";
  isFresh.value = true;
  session.value = data;
}

export async function logOut() {
  await call("DELETE", "/session");
  localStorage.removeItem(VISITED);
  sessionEnded.value = "";
  session.value = null;
}

/** A request was answered 401: whoever was logged in is so no longer. */
export function end() {
  if (session.value) sessionEnded.value = "Your session has ended; log in again.";
  localStorage.removeItem(VISITED);
  session.value = null;
}
