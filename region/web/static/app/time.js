// The present, as a signal: "3 minutes ago" grows older by itself.
import { signal } from "../vendor/preact.js";

const TICK_MS = 10_000;

export const now = signal(Date.now());

setInterval(() => {
  now.value = Date.now();
}, TICK_MS);
