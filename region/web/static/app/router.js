// Which page is shown: the part of the address behind "#/".
import { signal } from "../vendor/preact.js";

const DEFAULT = "images";

/** The name of the page that is asked for. */
export const route = signal(read());

addEventListener("hashchange", () => {
  route.value = read();
});

function read() {
  return location.hash.replace(/^#\/?/, "").split("?")[0] || DEFAULT;
}
