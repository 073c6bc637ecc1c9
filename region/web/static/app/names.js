// What images and bootloaders are called where only their id is known.
import * as facts from "./facts.js";
import { imageId, parseId } from "./selection.js";
import { bootloaderName, fullTitle } from "./words.js";

/** A function that gives an image's or a bootloader's name for people, from whatever is known of it. */
export function namer() {
  const titles = new Map();
  for (const offer of facts.knownOffers()) titles.set(imageId(offer), offer.title);
  for (const image of facts.images.value.value || []) titles.set(image.id, image.title);
  return (id) => {
    const { os, release, arch } = parseId(id);
    if (os === "bootloader") return `Bootloader ${bootloaderName(id)}`;
    return `${fullTitle(os, titles.get(id) || release)} ${arch}`;
  };
}
