// Word that something changed: server-sent events, and polling where these do not come through.
import { heard as heardOf } from "./liveness.js";
import { signal } from "../vendor/preact.js";

const ALIVE = "alive"; // the region says so when there is nothing else to say
const SILENCE_MS = 6_000; // the region names every topic at once when a stream begins
const POLL_MS = 5_000;
const RETRY_MS = 3_000; // doubled with each refusal, up to
const RETRY_MOST_MS = 60_000;

/** "connecting", "live", "reconnecting" (the stream broke, it comes again by itself) or "polling". */
export const connection = signal("connecting");

/** Call `tell(topic)` for each change from now on; the answer ends it. Whatever was missed is told as changed. */
export function follow(topics, tell) {
  let source = null;
  let silence = 0;
  let poll = 0;
  let retry = 0;
  let refusals = 0;
  let over = false;

  function heard(event) {
    refusals = 0;
    clearTimeout(silence);
    clearInterval(poll);
    silence = poll = 0;
    connection.value = "live";
    heardOf();
    if (event.type !== ALIVE) tell(event.type);
  }

  /** Give the stream some time to say something; then ask by ourselves until it does. */
  function wait() {
    silence ||= setTimeout(() => {
      silence = 0;
      if (over || poll) return;
      connection.value = "polling";
      poll = setInterval(() => topics.forEach(tell), POLL_MS);
      topics.forEach(tell);
    }, SILENCE_MS);
  }

  function open() {
    source?.close();
    source = new EventSource("/api/v1/events");
    for (const topic of [...topics, ALIVE]) source.addEventListener(topic, heard);
    source.onerror = () => {
      if (over) return;
      if (!poll) connection.value = "reconnecting";
      wait();
      // The browser comes again by itself after a lost connection, and never after a refusal.
      if (source.readyState === EventSource.CLOSED) {
        clearTimeout(retry);
        // Not all pages come again in the same moment, nor ever more often than a region that is full can bear.
        retry = setTimeout(open, Math.min(RETRY_MOST_MS, RETRY_MS * 2 ** refusals) * (0.5 + Math.random()));
        refusals += 1;
      }
    };
    wait();
  }

  open();
  return () => {
    over = true;
    source.close();
    for (const timer of [silence, retry]) clearTimeout(timer);
    clearInterval(poll);
    connection.value = "connecting";
  };
}
