// The page: who is logged in, which part is shown, and how the page hears of changes.
import { Clear } from "./clear.js";
import { connection, follow } from "./events.js";
import * as facts from "./facts.js";
import { ImagesPage } from "./images.js";
import { liveness, waiting } from "./liveness.js";
import { LogIn } from "./login.js";
import { Busy, Liveness, Outcome, outcome, Spoken } from "./notice.js";
import { route } from "./router.js";
import { draft } from "./selection.js";
import { isFresh, resume, session } from "./session.js";
import { html, render, signal, useEffect, useRef, useSignal } from "../vendor/preact.js";

/** Pages by name: title, and how to come by the component. The first is what people come for, the others can wait. */
const PAGES = {
  images: ["Images", async () => ImagesPage],
  racks: ["Racks", async () => (await import("./racks.js")).RacksPage],
  activity: ["Activity", async () => (await import("./activity.js")).ActivityPage],
  settings: ["Settings", async () => (await import("./settings.js")).SettingsPage],
};

const CONNECTION = {
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  polling: "Checking every 5 seconds",
  silent: "No word",
};

const unreachable = signal(null);

function Page() {
  if (session.value === undefined) return html`<${Unreachable} />`;
  return html`${session.value ? html`<${LoggedIn} key=${session.value.name} />` : html`<${LogIn} />`}<${Spoken} />`;
}

/** Before it is known who is logged in: nothing, unless the region does not answer, or not soon. */
function Unreachable() {
  if (!unreachable.value) return html`<main class="login" id="main"><${Liveness} /></main>`;
  return html`<main class="login" id="main"><div class="card">
    <h1>Bootferry</h1>
    <p role="alert">${unreachable.value.message}</p>
    <button type="button" class="primary" onClick=${begin}>Try again</button>
  </div></main>`;
}

/** What is there of a page at once, however slowly the rest of it comes. */
function Heading({ title }) {
  return html`<header class="page-head">
    <div class="page-head-inner"><h1 tabindex="-1">${title}</h1></div>
  </header>`;
}

function LoggedIn() {
  useEffect(() => {
    const end = follow(facts.TOPICS, facts.changed);
    return () => {
      end();
      facts.forgetAll();
      draft.value = new Map();
      outcome.value = null;
    };
  }, []);
  const state = liveness.value === "silent" ? "silent" : connection.value;
  const name = PAGES[route.value] ? route.value : "images";
  const [title, come] = PAGES[name];
  const main = useRef(null);
  const before = useRef(isFresh.value ? "log-in" : name);
  const shown = useSignal({ name: "images", Component: ImagesPage });
  const { Component } = shown.value;
  useEffect(() => {
    document.title = `${title} · Bootferry`;
    let over = false;
    come()
      .catch(() => Away)
      .then((Component) => {
        if (!over) shown.value = { name, Component };
      })
      .finally(waiting());
    return () => {
      over = true;
    };
  }, [name]);
  useEffect(() => {
    if (shown.value.name !== name) return;
    // Who comes by the keyboard goes on reading where the page begins; a visit starts at the top.
    if (before.current !== name) {
      main.current.querySelector("h1").focus({ preventScroll: true });
      scrollTo(0, 0);
      outcome.value = null;
    }
    before.current = name;
  }, [shown.value]);
  return html`<a class="skip" href="#main" onClick=${skip(main)}>Skip to the page</a>
    <nav class="top" aria-label="Bootferry">
      <div class="top-inner">
        <a class="brand" href="#/images"><img src="/static/favicon.svg" alt="" width="24" height="24" /> Bootferry</a>
        <ul>
          ${Object.entries(PAGES).map(
            ([page, [words]]) => html`<li key=${page}>
              <a href=${`#/${page}`} aria-current=${page === name ? "page" : null}>${words}</a>
            </li>`,
          )}
        </ul>
        <p class="top-state">
          <span class=${`connection connection-${state}`} role="status">${CONNECTION[state]}</span>
          <span class="top-name">${session.value.name}</span>
        </p>
      </div>
    </nav>
    <div class="clear"><${Clear} /></div>
    <main id="main" ref=${main}><${Liveness} />${shown.value.name === name ? html`<${Component} />` : html`<${Heading} title=${title} />`}</main>
    <${Busy} /><${Outcome} />`;
}

/** Instead of a page whose script did not come. */
function Away() {
  return html`<div class="page-body">
    <h1 tabindex="-1">Not at hand</h1>
    <p>The region did not send this page. Check your network and the region, then load it again.</p>
    <button type="button" onClick=${() => location.reload()}>Load again</button>
  </div>`;
}

/** The address is the router's: skipping moves the focus only. */
function skip(main) {
  return (event) => {
    event.preventDefault();
    main.current.querySelector("h1").focus();
  };
}

async function begin() {
  unreachable.value = null;
  try {
    await resume();
  } catch (problem) {
    unreachable.value = problem;
    if (problem.retryAfterS) setTimeout(begin, problem.retryAfterS * 1000);
  }
}

render(html`<${Page} />`, document.getElementById("page"));
begin();
