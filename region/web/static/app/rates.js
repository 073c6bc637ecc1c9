// How fast bytes come, from what two readings apart say. The region counts bytes; a rate is only for the eye.

const SMOOTHING = 0.4; // the weight of the newest sample
const FORGET_MS = 8_000;

/** A meter: `note(key, bytes, atMs)` answers the rate in bytes per second, null until two readings differ. */
export function meter() {
  const seen = new Map();
  return {
    note(key, bytes, atMs) {
      const last = seen.get(key);
      if (!last || bytes < last.bytes || atMs - last.atMs > FORGET_MS) {
        seen.set(key, { bytes, atMs, rate: null });
        return null;
      }
      if (bytes === last.bytes || atMs - last.atMs < 400) return last.rate;
      const sample = ((bytes - last.bytes) * 1000) / (atMs - last.atMs);
      const rate = last.rate === null ? sample : SMOOTHING * sample + (1 - SMOOTHING) * last.rate;
      seen.set(key, { bytes, atMs, rate });
      return rate;
    },
  };
}
