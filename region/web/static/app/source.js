// Choosing where images come from, and trying a mirror before anything of it is saved.
import { call } from "./api.js";
import * as facts from "./facts.js";
import { ago, newestFirst, byName, plural } from "./format.js";
import { Notice, tell, tellProblem } from "./notice.js";
import { may } from "./session.js";
import { now } from "./time.js";
import { fullTitle, REFUSAL } from "./words.js";
import { html, signal, useId, useSignal } from "../vendor/preact.js";

const CUSTOM = "custom";

/** The id of the source whose offers are shown, "custom", or null for the one that wins. */
export const chosen = signal(null);

/** The source that is shown, of the sources as the region lists them: the one that wins first. */
export function shownSource(sources) {
  return sources.find((source) => source.id === chosen.value) || sources[0] || null;
}

/** A source name nobody uses yet, from a mirror's address. Pure. */
export function nameFor(url, sources) {
  let host = "Mirror";
  try {
    host = new URL(url).hostname || host;
  } catch {
    // The region will say what is wrong with the address.
  }
  const taken = new Set(sources.map((source) => source.name));
  if (!taken.has(host)) return host.slice(0, 60);
  for (let number = 2; ; number += 1) {
    const name = `${host.slice(0, 60)} ${number}`;
    if (!taken.has(name)) return name;
  }
}

/** `images`: what the region has; `onMove(sourceId)` asks for taking every image from that source. */
export function SourceChoice({ sources, images, movable, onMove }) {
  const editing = useSignal(false);
  const isCustom = chosen.value === CUSTOM;
  const shown = isCustom ? null : shownSource(sources);
  const inOrder = [...sources].sort((a, b) => a.id - b.id);
  const choose = (value) => () => {
    chosen.value = value;
    editing.value = false;
  };
  return html`<fieldset class="source-choice">
      <legend>Choose source</legend>
      <div class="radios">
        ${inOrder.map(
          (source) => html`<label key=${source.id}>
            <input
              type="radio"
              name="source"
              checked=${!isCustom && shown === source}
              onChange=${choose(source.id)}
            />
            ${source.name}
          </label>`,
        )}
        <label>
          <input type="radio" name="source" checked=${isCustom} disabled=${!may("admin")} onChange=${choose(CUSTOM)} />
          Custom
        </label>
      </div>
    </fieldset>
    ${isCustom && html`<${SourceForm} sources=${sources} onDone=${(source) => choose(source ? source.id : null)()} />`}
    ${shown && editing.value &&
    html`<${SourceForm}
      key=${shown.id}
      source=${shown}
      sources=${sources}
      held=${images.filter((image) => image.source_id === shown.id && image.held_version).length}
      onDone=${choose(shown.id)}
    />`}
    ${shown && !editing.value &&
    html`<${SourceLine}
      source=${shown}
      sources=${sources}
      onEdit=${() => {
        editing.value = true;
      }}
    />`}
    ${shown && movable > 0 &&
    html`<p class="hint">
      ${plural(movable, "selected image")} that ${shown.name} offers too
      ${movable === 1 ? " comes" : " come"} from another source.
      ${" "}<button type="button" class="link" onClick=${() => onMove(shown.id)}>Take from ${shown.name} instead</button>
    </p>`}`;
}

function SourceLine({ source, sources, onEdit }) {
  const remove = async () => {
    try {
      await call("DELETE", `/sources/${source.id}`);
      chosen.value = null;
      tell("positive", `${source.name} is forgotten.`);
      facts.sources.load();
    } catch (problem) {
      tellProblem(`${source.name} stays.`, problem);
    }
  };
  const prefer = async () => {
    const priority = Math.max(...sources.map((one) => one.priority)) + 10;
    try {
      await call("PATCH", `/sources/${source.id}`, { body: { priority } });
      tell("positive", `${source.name} wins from now on.`, "Images selected from several sources come from it.");
      facts.sources.load();
    } catch (problem) {
      tellProblem("The order stays as it was.", problem);
    }
  };
  const wins = sources[0] === source;
  return html`<div class="source-line">
    <p>
      <code>${source.url}</code>
      <span class="below">${[signers(source), reading(source), rank(source, sources)].filter(Boolean).join(" · ")}</span>
      ${source.unsigned && html`<span class="below error">Unsigned: nobody vouches for what comes from here.</span>`}
    </p>
    ${may("admin") &&
    html`<div class="source-buttons">
      ${sources.length > 1 && !wins && html`<button type="button" class="small" onClick=${prefer}>Prefer</button>`}
      <button type="button" class="small" onClick=${onEdit}>Edit source</button>
      ${sources.length > 1 && html`<button type="button" class="small" onClick=${remove}>Remove</button>`}
    </div>`}
  </div>`;
}

function signers(source) {
  if (source.unsigned) return null;
  return source.key_ids.length ? `signed by ${source.key_ids.map((id) => id.slice(-16)).join(" or ")}` : "signed";
}

function reading(source) {
  if (!source.last_read_at) return "not read yet";
  return `read ${ago(source.last_read_at, now.value)}`;
}

function rank(source, sources) {
  if (sources.length < 2) return null;
  const place = sources.indexOf(source);
  if (place === 0) return `priority ${source.priority}: wins over ${sources.slice(1).map((one) => one.name).join(", ")}`;
  return `priority ${source.priority}: ${sources.slice(0, place).map((one) => one.name).join(", ")} wins over it`;
}

function field(form, name, type = "value") {
  return (event) => {
    form.value = { ...form.value, [name]: event.currentTarget[type] };
  };
}

/** What the form says of the way to trust the source; empty when nothing was said. */
function trustOf({ keyring, keyringPath, unsigned }) {
  const trust = {};
  if (unsigned) trust.unsigned = true;
  if (keyring.trim()) trust.keyring = keyring.trim();
  if (keyringPath.trim()) trust.keyring_path = keyringPath.trim();
  return trust;
}

/** Add a source, or change `source`: Connect tries it and shows what it offers, and only then it can be saved. */
function SourceForm({ source, sources, held = 0, onDone }) {
  const form = useSignal({
    url: source ? source.url : "",
    keyringPath: (source && source.keyring_path) || "",
    keyring: "",
    unsigned: source ? source.unsigned : false,
    name: source ? source.name : "",
    priority: source ? String(source.priority) : "",
    proxy: (source && source.proxy) || "",
    caBundle: (source && source.ca_bundle) || "",
  });
  const advanced = useSignal(Boolean(source));
  const tried = useSignal(null); // what the region found, and for which fields
  const refused = useSignal(null);
  const busy = useSignal("");
  const id = useId();
  const set = (name, type) => {
    const take = field(form, name, type);
    return (event) => {
      take(event);
      refused.value = null;
      if (name !== "name" && name !== "priority") tried.value = null;
    };
  };
  const { url, keyringPath, keyring, unsigned, name, priority, proxy, caBundle } = form.value;
  const both = keyringPath.trim() && keyring.trim();
  const isSameOrigin = source && source.url === url.trim() && !keyring.trim() &&
    (source.keyring_path || "") === keyringPath.trim() && source.unsigned === unsigned;

  const body = () => ({
    name: name.trim() || nameFor(url.trim(), sources),
    url: url.trim(),
    ...(proxy.trim() || source ? { proxy: proxy.trim() } : {}),
    ...(caBundle.trim() || source ? { ca_bundle: caBundle.trim() } : {}),
    ...(priority.trim() ? { priority: Number(priority) } : {}),
  });

  const connect = async (event) => {
    event.preventDefault();
    refused.value = null;
    tried.value = null;
    if (both) {
      advanced.value = true;
      refused.value = { code: "invalid_value", message: "Give either the path of the keyring or its contents, not both." };
      return;
    }
    busy.value = "connect";
    try {
      const sent = { ...body(), ...trustOf(form.value) };
      if (!sent.proxy) delete sent.proxy;
      if (!sent.ca_bundle) delete sent.ca_bundle;
      tried.value = (await call("POST", "/sources/probe", { body: sent })).data;
      if (!name.trim()) form.value = { ...form.value, name: nameFor(url.trim(), sources) };
    } catch (problem) {
      refused.value = problem;
      if (/keyring|unsigned|signature/.test(problem.code + problem.message)) advanced.value = true;
    }
    busy.value = "";
  };

  const save = async () => {
    busy.value = "save";
    refused.value = null;
    try {
      const trust = isSameOrigin ? {} : trustOf(form.value);
      const { data } = source
        ? await call("PATCH", `/sources/${source.id}`, { body: { ...body(), ...trust } })
        : await call("POST", "/sources", { body: { ...body(), ...trust } });
      await facts.sources.load();
      tell("positive", `${data.name} is saved.`, "The region is reading it now.");
      onDone(data);
    } catch (problem) {
      refused.value = problem;
      busy.value = "";
    }
  };

  return html`<form class="source-form" onSubmit=${connect}>
    <h3 id=${`${id}-title`}>Mirror URL</h3>
    <p class="intro"><label for=${`${id}-url`}>Add the URL you want to select images from.</label></p>
    <div class="source-row">
      <input
        id=${`${id}-url`}
        type="url"
        required
        placeholder="https://mirror.example.org/maas/stable/"
        value=${url}
        onInput=${set("url")}
      />
      <button
        type="button"
        aria-expanded=${advanced.value}
        aria-controls=${`${id}-advanced`}
        onClick=${() => {
          advanced.value = !advanced.value;
        }}
      >
        ${advanced.value ? "Hide advanced options –" : "Show advanced options +"}
      </button>
      <button type="submit" class="primary" disabled=${busy.value !== "" || !url.trim()}>
        ${busy.value === "connect" ? "Connecting…" : "Connect"}
      </button>
      <button type="button" class="link" onClick=${() => onDone(source || null)}>Cancel</button>
    </div>
    <div class="source-advanced" id=${`${id}-advanced`} hidden=${!advanced.value}>
      <label for=${`${id}-path`}>Path, on the region, to the keyring that validates the mirror</label>
      <input
        id=${`${id}-path`}
        value=${keyringPath}
        placeholder="e.g. /usr/share/keyrings/ubuntu-cloudimage-keyring.gpg"
        disabled=${unsigned}
        spellcheck=${false}
        onInput=${set("keyringPath")}
      />
      <label for=${`${id}-keyring`}>Or the contents of the keyring</label>
      <textarea
        id=${`${id}-keyring`}
        rows="6"
        value=${keyring}
        placeholder="Armoured, or binary as base64"
        disabled=${unsigned}
        spellcheck=${false}
        onInput=${set("keyring")}
      ></textarea>
      <label class="check">
        <input type="checkbox" checked=${unsigned} onChange=${set("unsigned", "checked")} />
        Take this mirror without any signature
      </label>
      ${unsigned &&
      html`<${Notice} kind="caution" title="Anybody between the mirror and this region can change the images.">
        Your machines would boot whatever they put there. Everybody is told so for as long as the source exists.
      <//>`}
      <div class="source-pair">
        <div>
          <label for=${`${id}-proxy`}>Proxy for this source</label>
          <input
            id=${`${id}-proxy`}
            value=${proxy}
            placeholder="The region's own, from Settings"
            spellcheck=${false}
            onInput=${set("proxy")}
          />
        </div>
        <div>
          <label for=${`${id}-ca`}>More certificates to trust, a file on the region</label>
          <input id=${`${id}-ca`} value=${caBundle} spellcheck=${false} onInput=${set("caBundle")} />
        </div>
      </div>
    </div>
    ${refused.value &&
    html`<${Notice} kind="negative" title=${`${REFUSAL[refused.value.code] || "It did not work"}.`}>
      ${refused.value.message}
    <//>`}
    ${tried.value && html`<${Found} found=${tried.value} />`}
    ${source && html`<${Consequence} source=${source} held=${held} isSameOrigin=${isSameOrigin} />`}
    ${(tried.value || isSameOrigin) &&
    html`<div class="source-save">
      <div>
        <label for=${`${id}-name`}>Name</label>
        <input id=${`${id}-name`} maxlength="64" value=${name} onInput=${set("name")} />
      </div>
      <div>
        <label for=${`${id}-priority`}>Priority</label>
        <input
          id=${`${id}-priority`}
          type="number"
          min="1"
          max="1000000"
          value=${priority}
          placeholder="above all others"
          onInput=${set("priority")}
        />
        <span class="below">The greater number wins an image that several sources offer.</span>
      </div>
      <button type="button" class="primary" disabled=${busy.value !== ""} onClick=${save}>
        ${source ? "Save source" : "Add source"}
      </button>
    </div>`}
  </form>`;
}

/** What a source offers, seen before it is saved. */
function Found({ found }) {
  const ubuntu = found.images.filter((image) => image.os === "ubuntu");
  const others = found.images.filter((image) => image.os !== "ubuntu");
  const titles = (images) => [...new Set(images.map((image) => fullTitle(image.os, image.title)))].sort(newestFirst);
  const arches = [...new Set(ubuntu.map((image) => image.arch))].sort(byName);
  return html`<div class="notice notice-positive" role="status">
    <div class="notice-text">
      <strong class="notice-title">Connected. ${plural(found.images.length, "image")} on offer; nothing is saved yet.</strong>
      <dl class="found">
        ${ubuntu.length > 0 && html`<dt>Ubuntu</dt><dd>${titles(ubuntu).join(", ")} for ${arches.join(", ")}</dd>`}
        ${others.length > 0 && html`<dt>Others</dt><dd>${titles(others).join(", ")}</dd>`}
        <dt>Signature</dt>
        <dd>
          ${found.signed_by.length
            ? html`good; keys trusted: ${found.signed_by.map((id) => html`<code key=${id}>${id.slice(-16)}</code> `)}`
            : "none"}
        </dd>
        ${found.skipped.length > 0 &&
        html`<dt>Left out</dt><dd>${plural(found.skipped.length, "part")} this region cannot use: ${found.skipped.join(" ")}</dd>`}
      </dl>
    </div>
  </div>`;
}

function Consequence({ source, held, isSameOrigin }) {
  if (isSameOrigin) return null;
  if (source && held === 0) return null;
  return html`<${Notice} kind="information" title=${`${plural(held, "image")} held from ${source.name} stay${held === 1 ? "s" : ""}.`}>
    They are served as they are until the new address has their newest version whole. What it does not offer is kept
    and reads “No longer offered” until you delete it.
  <//>`;
}
