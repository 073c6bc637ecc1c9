// What an administrator sets at run time: a form of one field each, all of the same settings.
import { call } from "./api.js";
import * as facts from "./facts.js";
import { plural } from "./format.js";
import { tell, tellProblem } from "./notice.js";
import { may } from "./session.js";
import { html, useSignal } from "../vendor/preact.js";

export function Preferences() {
  facts.useFacts(facts.settings, facts.sources);
  // What was typed and is not saved, and the tag of the settings it was typed over.
  const typed = useSignal({ etag: null, values: {} });
  const settings = facts.settings.value.value;
  if (!settings) return null;
  return html`<${Proxy} settings=${settings} typed=${typed} />
    <${Retention} settings=${settings} typed=${typed} />`;
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
    const etag = Object.keys(values).length ? typed.value.etag : settings.etag;
    typed.value = { etag, values: { ...values, [name]: event.currentTarget.value } };
  };
  const save = (sent, done, refusal) => async (event) => {
    event.preventDefault();
    busy.value = true;
    try {
      const { data, etag } = await call("PATCH", "/settings", { body: { [name]: sent }, ifMatch: typed.value.etag });
      facts.settings.value.value = { ...data, etag };
      typed.value = { etag, values: without() };
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
  return { value, type, save, disabled: busy.value || !may("admin") || value.trim() === saved };
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
