// What is held and nobody vouches for, as people count it. Pure.
import { byName, plural } from "./format.js";

/** The images and bootloaders of held versions, each once. */
export function idsOf(held) {
  return [...new Set(held.map((one) => one.image))];
}

/** The held versions as people think of them: one for an image, however many kernels it has; bootloaders last. */
export function byImage(held) {
  const found = new Map();
  for (const one of held) found.set(`${one.image} ${one.version}`, one);
  return [...found.values()].sort(
    (a, b) => isBootloader(a.image) - isBootloader(b.image) || byName(a.image, b.image),
  );
}

/** "2 images and 5 bootloaders" of their ids. */
export function counted(ids) {
  const bootloaders = ids.filter(isBootloader).length;
  const parts = [];
  if (ids.length > bootloaders) parts.push(plural(ids.length - bootloaders, "image"));
  if (bootloaders) parts.push(plural(bootloaders, "bootloader"));
  return parts.join(" and ");
}

function isBootloader(id) {
  return id.startsWith("bootloader:");
}
