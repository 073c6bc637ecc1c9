// What an administrator sets at run time: a form of one field each, all of the same settings.
import { call } from "./api.js";
import { Dialog } from "./dialog.js";
import * as facts from "./facts.js";
import { plural, size } from "./format.js";
import { tell, tellProblem } from "./notice.js";
import { Bootloaders, Warnings } from "./plan.js";
import { may } from "./session.js";
import { html, useSignal } from "../vendor/preact.js";

export function Preferences() {
  facts.useFacts(facts.settings, facts.sources);
  // What was typed and is not saved, and the tag of the settings it was typed over.
  const typed = useSignal({ etag: null, values: {} });
  const settings = facts.settings.value.value;
  if (!settings) return null;
  return html`<${Proxy} settings=${settings} typed=${typed} />
    <${Retention} settings=${settings} typed=${typed} />
    <${BootloaderSource} settings=${settings} typed=${typed} />`;
}

/** One setting under somebody's hands: its `value` as text, `type` it, and `save` it under its name. */
function useSetting({ settings, typed, name }) {
  const busy = useSignal(false);
  const saved = settings[name] === null ? "" : String(settings[name]);
  const { values } = typed.value;
  const value = name in values ? values[name] : saved;
  const without = () => {
    const { [name]: _, ...rest } = values;
    return rest;
  };
  const type = (event) => {
    const since = Object.keys(values).length ? typed.value.etag : settings.etag;
    typed.value = { etag: since, values: { ...values, [name]: event.currentTarget.value } };
  };
  const etag = name in values ? typed.value.etag : settings.etag;
  const save = (sent, done, refusal) => async (event) => {
    event?.preventDefault();
    busy.value = true;
    try {
      const { data, etag: now } = await call("PATCH", "/settings", { body: { [name]: sent }, ifMatch: etag });
      facts.settings.value.value = { ...data, etag: now };
      typed.value = { etag: now, values: without() };
      tell("positive", done(data));
    } catch (problem) {
      if (problem.status === 412) {
        typed.value = { etag: null, values: without() };
        facts.settings.load();
      }
      tellProblem(refusal, problem);
    }
    busy.value = false;
  };
  return { value, etag, type, save, disabled: busy.value || !may("admin") || value.trim() === saved };
}

function Proxy({ settings, typed }) {
  const { value, type, save, disabled } = useSetting({ settings, typed, name: "proxy" });
  const own = (facts.sources.value.value || []).filter((source) => source.proxy);
  const done = ({ proxy }) => (proxy ? "The proxy is saved." : "There is no proxy any more.");
  return html`<section aria-labelledby="proxy">
    <h2 id="proxy">Proxy</h2>
    <form class="line-form" onSubmit=${save(value.trim(), done, "The proxy stays as it was.")}>
      <label for="proxy-url">The region's way to its sources</label>
      <input
        id="proxy-url"
        value=${value}
        placeholder="http://proxy.example.org:3128; empty for none"
        spellcheck=${false}
        disabled=${!may("admin")}
        aria-describedby="proxy-help"
        onInput=${type}
      />
      <button type="submit" class="primary" disabled=${disabled}>Save proxy</button>
      <p class="help" id="proxy-help">
        A source with a proxy of its own uses that one.
        ${own.length > 0 && ` Those are ${own.map((source) => `${source.name} (${source.proxy})`).join(", ")}.`}
      </p>
    </form>
  </section>`;
}

function Retention({ settings, typed }) {
  const { value, type, save, disabled } = useSetting({ settings, typed, name: "retention_days" });
  const done = ({ retention_days: days }) => `Records are kept for ${plural(days, "day")}.`;
  return html`<section aria-labelledby="retention">
    <h2 id="retention">Retention</h2>
    <form class="line-form" onSubmit=${save(Number(value), done, "The retention stays as it was.")}>
      <label for="retention-days">How many days records are kept</label>
      <input
        id="retention-days"
        type="number"
        min="1"
        max="3650"
        required
        value=${value}
        disabled=${!may("admin")}
        aria-describedby="retention-help"
        onInput=${type}
      />
      <button type="submit" class="primary" disabled=${disabled}>Save retention</button>
      <p class="help" id="retention-help">Older finished imports and activity are removed once an hour.</p>
    </form>
  </section>`;
}

/** Which source bootloaders come from: planned and shown before it is saved. */
function BootloaderSource({ settings, typed }) {
  const { value, etag, type, save, disabled } = useSetting({ settings, typed, name: "bootloader_source_id" });
  const plan = useSignal(null);
  const sources = facts.sources.value.value || [];
  const chosen = sources.find((source) => String(source.id) === value);
  const close = () => {
    plan.value = null;
  };
  const refusal = "Bootloaders come from where they came from.";
  const look = async (event) => {
    event.preventDefault();
    try {
      const body = { bootloader_source_id: chosen.id };
      plan.value = (await call("PATCH", "/settings?dry_run=true", { body, ifMatch: etag })).data;
    } catch (problem) {
      if (problem.status === 412) facts.settings.load();
      tellProblem(refusal, problem);
    }
  };
  const done = () => `Bootloaders come from ${chosen.name}.`;
  const take = async () => {
    close();
    await save(chosen.id, done, refusal)();
  };
  return html`<section aria-labelledby="bootloader-source">
    <h2 id="bootloader-source">Bootloaders</h2>
    <form class="line-form" onSubmit=${look}>
      <label for="bootloader-source-id">Bootloaders come from</label>
      <select id="bootloader-source-id" disabled=${!may("admin")} aria-describedby="bootloader-help" onChange=${type}>
        ${!chosen && html`<option value="" selected>No source; choose one</option>`}
        ${sources.map(
          (source) => html`<option key=${source.id} value=${source.id} selected=${source === chosen}>
            ${source.name}
          </option>`,
        )}
      </select>
      <button type="submit" class="primary" disabled=${disabled || !chosen}>Save choice</button>
      <p class="help" id="bootloader-help">
        They come from one source, whichever wins an image: what another one lists does not change what machines boot
        with.
      </p>
    </form>
    ${plan.value &&
    html`<${Dialog}
      title=${`Take bootloaders from ${chosen.name}?`}
      onClose=${close}
      actions=${html`<button type="button" onClick=${close}>Cancel</button>
        <button type="button" class="primary" onClick=${take}>Take them from there</button>`}
    >
      <${Warnings} plan=${plan.value} />
      <dl class="plan">
        <${Bootloaders} plan=${plan.value} />
        <dt>To fetch</dt>
        <dd>${plan.value.fetch_bytes ? size(plan.value.fetch_bytes) : "nothing"}</dd>
      </dl>
      <p>What is held stays and is served until it is replaced.</p>
    <//>`}
  </section>`;
}
