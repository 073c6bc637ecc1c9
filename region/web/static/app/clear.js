// What travels in the clear: said before anybody types a token, and for as long as it is so.
import { get } from "./api.js";
import { Notice } from "./notice.js";
import { html, useEffect, useSignal } from "../vendor/preact.js";

const LOOPBACK = /^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/;

/** What is wrong with the way a page came: "clear", "proxy" or null. `tls` is what the region knows of its own end. */
export function unsafe({ protocol, hostname }, tls) {
  if (protocol === "http:") return LOOPBACK.test(hostname) ? null : "clear";
  return tls === false ? "proxy" : null;
}

export function Clear() {
  const tls = useSignal(undefined);
  useEffect(() => {
    get("/region").then((region) => {
      tls.value = region.tls;
    }, () => {});
  }, []);
  const found = unsafe(location, tls.value);
  if (found === "clear") {
    return html`<${Notice} kind="caution" title="This page comes without TLS.">
      Whoever shares the network between you and the region can read your token. Ask your administrator for an address
      that begins with https.
    <//>`;
  }
  if (found === "proxy") {
    return html`<${Notice} kind="caution" title="The region does not know its proxy.">
      You came by TLS, and the region was told nothing of it: name the proxy in REGION_TRUSTED_PROXIES, and let it send
      X-Forwarded-Proto.
    <//>`;
  }
  return null;
}
