// The log-in page: a token is exchanged for a session, and kept nowhere.
import { get } from "./api.js";
import { Clear } from "./clear.js";
import { Busy, Notice } from "./notice.js";
import { logIn, sessionEnded } from "./session.js";
import { html, useEffect, useRef, useSignal } from "../vendor/preact.js";

export function LogIn() {
  const token = useRef(null);
  const refused = useSignal(null);
  const busy = useSignal(false);
  const name = useSignal("");
  useEffect(() => {
    document.title = "Log in · Bootferry";
    token.current.focus();
    get("/region").then((region) => {
      name.value = region.name;
    }, () => {});
  }, []);
  const submit = async (event) => {
    event.preventDefault();
    busy.value = true;
    refused.value = null;
    try {
      await logIn(token.current.value.trim());
    } catch (problem) {
      refused.value = problem;
      busy.value = false;
      token.current.select();
    }
  };
  return html`<main class="login" id="main">
    <form class="card" onSubmit=${submit}>
      <h1>Log in${name.value && name.value !== "region" ? html` to <b>${name}</b>` : " to Bootferry"}</h1>
      <${Clear} />
      ${sessionEnded.value && !refused.value && html`<${Notice} kind="caution" title=${sessionEnded} />`}
      ${refused.value && html`<${Notice} kind="negative" title="Not logged in.">${refused.value.message}<//>`}
      <label for="token">Operator token</label>
      <input
        id="token"
        ref=${token}
        type="password"
        autocomplete="off"
        spellcheck=${false}
        placeholder="bf_…"
        required
        aria-describedby="token-help"
      />
      <p class="help" id="token-help">
        An administrator makes tokens under Settings. The first one lies on the region, in the file
        ${" "}<code>admin-token</code> of its data directory.
      </p>
      <${Busy} />
      <button class="primary" type="submit" disabled=${busy}>${busy.value ? "Logging in…" : "Log in"}</button>
    </form>
  </main>`;
}
