// Adding a source, or changing one: the mirror is tried before anything of it is saved.
import { useAnswer } from "./answer.js";
import { call } from "./api.js";
import * as facts from "./facts.js";
import { byName, newestFirst, plural } from "./format.js";
import { useChange } from "./lapse.js";
import { Notice, tell } from "./notice.js";
import { fullTitle, keyId, REFUSAL } from "./words.js";
import { html, useId, useSignal } from "../vendor/preact.js";

const MAX_KEYRING_BYTES = 1_000_000;
const SHIPPED = "ubuntu"; // the name of the keyring that Bootferry ships

/** The ways to say who signs a mirror. */
const WAYS = [
  ["shipped", "Ubuntu: the keyring that Bootferry ships", "For images.maas.io and true copies of it."],
  ["contents", "A keyring that you paste or choose", null],
  ["path", "A keyring on the region, read at every sync", null],
  ["unsigned", "Take this mirror without any signature", null],
];

/** A source name nobody uses yet, from a mirror's address. Pure. */
function nameFor(url, sources) {
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

/** How a source says who signs it; a new one begins with the keyring that needs no typing. Pure. */
function wayOf(source) {
  if (!source || source.keyring_name) return "shipped";
  if (source.unsigned) return "unsigned";
  return source.keyring_path ? "path" : "contents";
}

/** What the form says of the way to trust the source, as the API takes it. Pure. */
function trustOf({ way, keyring, keyringPath }) {
  if (way === "shipped") return { keyring_name: SHIPPED };
  if (way === "unsigned") return { unsigned: true };
  if (way === "path") return { keyring_path: keyringPath.trim() };
  return { keyring: keyring.trim() };
}

/** The keyring in a file as the API takes it: armour as it is, binary as base64. */
async function readKeyring(file) {
  if (file.size > MAX_KEYRING_BYTES) throw new Error(`${file.name} is larger than a keyring may be.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return bytes.every((byte) => byte < 128) ? text : btoa(text);
}

/** Add a source, or change `source`: Connect tries it and shows what it offers, and only then it can be saved. */
export function SourceForm({ source, sources, onDone }) {
  const form = useSignal({
    url: source ? source.url : "",
    way: wayOf(source),
    keyringPath: (source && source.keyring_path) || "",
    keyring: "",
    name: source ? source.name : "",
    priority: source ? String(source.priority) : "",
    staleAfter: source ? String(source.stale_after_days) : "",
    proxy: (source && source.proxy) || "",
    caBundle: (source && source.ca_bundle) || "",
  });
  const advanced = useSignal(Boolean(source && (source.proxy || source.ca_bundle)));
  const tried = useSignal(null); // what the region found at the address, with these keys
  const refused = useSignal(null);
  const busy = useSignal("");
  const again = useSignal(0);
  // Whoever changes a source changes what they have seen of it when they began.
  const { answer: seen, problem: unread } = useAnswer(async () => (source ? call("GET", `/sources/${source.id}`) : null), again.value);
  const id = useId();
  const { url, way, keyringPath, keyring, name, priority, staleAfter, proxy, caBundle } = form.value;
  const isSameTrust =
    source &&
    way === wayOf(source) &&
    !keyring.trim() &&
    (way !== "path" || keyringPath.trim() === source.keyring_path);
  const isSame = isSameTrust && source.url === url.trim();

  const put = (changes) => {
    form.value = { ...form.value, ...changes };
    refused.value = null;
    // What is said below the answer of the mirror is no part of what was tried.
    if (!["name", "priority", "staleAfter"].some((field) => field in changes)) tried.value = null;
  };
  const set = (field) => (event) => put({ [field]: event.currentTarget.value });
  const chooseFile = async (event) => {
    const [file] = event.currentTarget.files;
    if (!file) return;
    try {
      put({ keyring: await readKeyring(file) });
    } catch (error) {
      refused.value = { code: "keyring_invalid", message: error.message };
    }
  };

  const body = () => ({
    name: name.trim() || nameFor(url.trim(), sources),
    url: url.trim(),
    ...(proxy.trim() || source ? { proxy: proxy.trim() } : {}),
    ...(caBundle.trim() || source ? { ca_bundle: caBundle.trim() } : {}),
    ...(priority.trim() ? { priority: Number(priority) } : {}),
    ...(staleAfter.trim() ? { stale_after_days: Number(staleAfter) } : {}),
  });

  /** What a change says: what is as it was is left out. A password is shown as ***, and *** sent back means the one that is kept. */
  const changes = () => {
    const { name: called, ...rest } = body();
    const was = { ...source, proxy: source.proxy || "", ca_bundle: source.ca_bundle || "" };
    const changed = Object.entries(rest).filter(([field, value]) => value !== was[field]);
    return { name: called, ...Object.fromEntries(changed) };
  };

  const connect = async (event) => {
    event.preventDefault();
    refused.value = null;
    tried.value = null;
    busy.value = "connect";
    try {
      const sent = { ...body(), ...trustOf(form.value) };
      if (!sent.proxy) delete sent.proxy;
      if (!sent.ca_bundle) delete sent.ca_bundle;
      const { data } = await call("POST", `/sources/probe${source ? `?source_id=${source.id}` : ""}`, { body: sent });
      if (!name.trim()) form.value = { ...form.value, name: nameFor(url.trim(), sources) };
      tried.value = data;
    } catch (problem) {
      refused.value = problem;
    }
    busy.value = "";
  };

  const saved = async (data) => {
    await facts.sources.load();
    facts.images.load();
    tell("positive", `${data.name} is saved.`, "The region is reading it now.");
    onDone(data);
  };

  /** Say it, and look again where somebody else was faster. */
  const refuse = (problem) => {
    if (problem.status === 412) {
      again.value += 1;
      facts.sources.load();
    }
    refused.value = problem;
  };

  const { begin, dialog } = useChange(source, { onSaved: saved, onRefused: refuse });
  const save = async () => {
    busy.value = "save";
    refused.value = null;
    if (source) {
      await begin({ ...changes(), ...(isSameTrust ? {} : trustOf(form.value)) }, seen.etag);
    } else {
      await call("POST", "/sources", { body: { ...body(), ...trustOf(form.value) } }).then(
        ({ data }) => saved(data),
        refuse,
      );
    }
    busy.value = "";
  };

  // What the chosen way still needs, below its button.
  const needs = {};
  needs.contents = () => html`<div class="way">
    <label for=${`${id}-keyring`}>The contents of the keyring</label>
    <textarea
      id=${`${id}-keyring`}
      rows="4"
      value=${keyring}
      placeholder="Armoured, or binary as base64"
      spellcheck=${false}
      onInput=${set("keyring")}
    ></textarea>
    <label for=${`${id}-file`}>Or a file on this computer</label>
    <input id=${`${id}-file`} type="file" accept=".gpg,.asc,.pgp,.key,.kbx" onChange=${chooseFile} />
    ${isSameTrust && html`<p class="help">Left empty, the source keeps the keys it has.</p>`}
  </div>`;
  needs.path = () => html`<div class="way">
    <label for=${`${id}-path`}>Path, on the region, to the keyring that validates the mirror</label>
    <input
      id=${`${id}-path`}
      value=${keyringPath}
      required
      placeholder="e.g. /usr/share/keyrings/ubuntu-cloudimage-keyring.gpg"
      spellcheck=${false}
      onInput=${set("keyringPath")}
    />
  </div>`;

  return html`<form class="source-form" onSubmit=${connect}>
    <h3 id=${`${id}-title`}>Mirror URL</h3>
    <p class="intro"><label for=${`${id}-url`}>Add the URL you want to select images from.</label></p>
    <input
      id=${`${id}-url`}
      type="url"
      class="source-url"
      required
      placeholder="https://mirror.example.org/maas/stable/"
      value=${url}
      onInput=${set("url")}
    />
    <fieldset class="ways">
      <legend>Who signs it</legend>
      ${WAYS.map(
        ([value, title, text]) => html`<div key=${value}>
          <label class="choose">
            <input
              type="radio"
              name=${`${id}-way`}
              value=${value}
              checked=${way === value}
              onChange=${() => put({ way: value })}
            />
            <span>${title}${text && html`<span class="below">${text}</span>`}</span>
          </label>
          ${way === value && needs[value]?.()}
        </div>`,
      )}
    </fieldset>
    ${way === "unsigned" &&
    html`<${Notice} kind="caution" title="Anybody between the mirror and this region can change the images.">
      Your machines would boot whatever they put there. Everybody is told so for as long as the source exists.
    <//>`}
    <div class="source-advanced" id=${`${id}-advanced`} hidden=${!advanced.value}>
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
    <div class="source-row">
      <button type="submit" class="primary" disabled=${busy.value !== "" || !url.trim()}>
        ${busy.value === "connect" ? "Connecting…" : "Connect"}
      </button>
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
      <button type="button" class="link" onClick=${() => onDone(source || null)}>Cancel</button>
    </div>
    ${unread && html`<${Notice} kind="negative" title=${`${source.name} could not be read.`}>${unread.message}<//>`}
    ${refused.value &&
    html`<${Notice} kind="negative" title=${`${REFUSAL[refused.value.code] || "It did not work"}.`}>
      ${refused.value.message}
    <//>`}
    ${tried.value && html`<${Found} found=${tried.value} />`}
    ${(tried.value || isSame) &&
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
          min="-1000000"
          max="1000000"
          value=${priority}
          placeholder="below all others"
          aria-describedby=${`${id}-priority-help`}
          onInput=${set("priority")}
        />
        <span class="below" id=${`${id}-priority-help`}>The greater number wins an image that several sources offer.</span>
      </div>
      <div>
        <label for=${`${id}-stale`}>Days until it counts as standing still</label>
        <input
          id=${`${id}-stale`}
          type="number"
          min="0"
          max="3650"
          value=${staleAfter}
          placeholder="30"
          aria-describedby=${`${id}-stale-help`}
          onInput=${set("staleAfter")}
        />
        <span class="below" id=${`${id}-stale-help`}>Everybody is warned when its documents are older; 0 never warns.</span>
      </div>
      <button type="button" class="primary" disabled=${busy.value !== "" || (source && !seen)} onClick=${save}>
        ${source ? "Save source" : "Add source"}
      </button>
    </div>`}
  </form>
  ${dialog}`;
}

/** What a source offers, seen before it is saved. */
function Found({ found }) {
  const ubuntu = found.images.filter((image) => image.os === "ubuntu");
  const others = found.images.filter((image) => image.os !== "ubuntu");
  const titles = (images) => [...new Set(images.map((image) => fullTitle(image.os, image.title)))].sort(newestFirst);
  const arches = [...new Set(ubuntu.map((image) => image.arch))].sort(byName);
  return html`<div class="notice notice-positive" role="status">
    <div class="notice-text">
      <strong class="notice-title">
        Connected. ${plural(found.images.length, "image")} on offer; nothing is saved yet.
      </strong>
      <dl class="found">
        ${ubuntu.length > 0 && html`<dt>Ubuntu</dt><dd>${titles(ubuntu).join(", ")} for ${arches.join(", ")}</dd>`}
        ${others.length > 0 && html`<dt>Others</dt><dd>${titles(others).join(", ")}</dd>`}
        <dt>Signature</dt>
        <dd>
          ${found.signed_by.length
            ? html`good; keys trusted: ${found.signed_by.map((key) => html`<code key=${key}>${keyId(key)}</code> `)}`
            : "none"}
        </dd>
        ${found.skipped.length > 0 &&
        html`<dt>Left out</dt>
          <dd>${plural(found.skipped.length, "part")} this region cannot use: ${found.skipped.join(" ")}</dd>`}
      </dl>
    </div>
  </div>`;
}
