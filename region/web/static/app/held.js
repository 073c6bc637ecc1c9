// What is held and nobody vouches for, as people count it. Pure.
import { plural } from "./format.js";

/** The held versions as people think of them: one for an image, however many kernels it has. */
export function byImage(held) {
  const found = new Map();
  for (const one of held) found.set(`${one.image} ${one.version}`, one);
  return [...found.values()].sort((a, b) => (a.image < b.image ? -1 : Number(a.image > b.image)));
}

/** "2 images and 5 bootloaders". */
export function counted(held) {
  const ids = [...new Set(held.map((one) => one.image))];
  const bootloaders = ids.filter((id) => id.startsWith("bootloader:")).length;
  const parts = [];
  if (ids.length > bootloaders) parts.push(plural(ids.length - bootloaders, "image"));
  if (bootloaders) parts.push(plural(bootloaders, "bootloader"));
  return parts.join(" and ");
}
