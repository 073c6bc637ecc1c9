// Figures and times as people read them. Pure: time is an argument.

const UNITS = ["bytes", "kB", "MB", "GB", "TB"];
const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** 495700000 bytes are "495.7 MB": decimal units, as everywhere in Bootferry. */
export function size(bytes) {
  let amount = bytes;
  let unit = 0;
  while (Math.abs(amount) >= 1000 && unit < UNITS.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  return unit === 0 ? `${Math.round(amount)} bytes` : `${amount.toFixed(1)} ${UNITS[unit]}`;
}

/** "120.3 of 495.7 MB": the unit said once where both share it. */
export function sizeOf(done, total) {
  const [a, b] = [size(done), size(total)];
  const unit = b.split(" ")[1];
  return a.endsWith(` ${unit}`) ? `${a.split(" ")[0]} of ${b}` : `${a} of ${b}`;
}

export function percent(done, total) {
  return total > 0 ? Math.min(100, Math.floor((100 * done) / total)) : 0;
}

/** `plural(2, "image")` is "2 images". */
export function plural(count, noun, many = `${noun}s`) {
  return `${count} ${count === 1 ? noun : many}`;
}

/** A span in seconds, in its largest unit: "48 minutes". */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < MINUTE) return plural(s, "second");
  if (s < HOUR - MINUTE / 2) return plural(Math.round(s / MINUTE), "minute");
  if (s < 2 * DAY) return plural(Math.round(s / HOUR), "hour");
  return plural(Math.round(s / DAY), "day");
}

/** "3 minutes ago"; clocks that disagree by a little do not make it the future. */
export function ago(iso, now) {
  const seconds = (now - Date.parse(iso)) / 1000;
  return seconds < 10 ? "just now" : `${span(seconds)} ago`;
}

/** "in 48 minutes", or "now" for what is due. */
export function until(iso, now) {
  const seconds = (Date.parse(iso) - now) / 1000;
  return seconds < 10 ? "now" : `in ${span(seconds)}`;
}

export function dateTime(iso) {
  return new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** "May 2029" of a plain date, in no time zone. */
export function month(isoDate) {
  return new Date(`${isoDate.slice(0, 10)}T00:00:00Z`).toLocaleDateString(undefined, {
    year: "numeric",
    month: "short",
    timeZone: "UTC",
  });
}

const natural = new Intl.Collator("en", { numeric: true });

/** Newest first: "26.04 LTS" before "24.10" before "6.6". */
export function newestFirst(a, b) {
  return natural.compare(b, a);
}

export function byName(a, b) {
  return natural.compare(a, b);
}
