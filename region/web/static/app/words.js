// The words people read for what the API says. They live here and nowhere else on the page.

/** Image statuses: the word, the icon, and what may be concluded from it. */
export const IMAGE = {
  queued: { word: "Queued", icon: "queued", means: "The next import fetches it." },
  downloading: { word: "Downloading", icon: "downloading", means: "The region fetches it from its source." },
  waiting_for_racks: {
    word: "Waiting for racks",
    icon: "waiting",
    means: "Whole on the region; not every live rack shows all of it yet.",
  },
  stored: { word: "Stored", icon: "stored", means: "Whole on the region; no rack is enrolled to serve it." },
  synced: { word: "Synced", icon: "synced", means: "Every live rack shows all of the newest version." },
  failed: { word: "Failed", icon: "failed", means: "What is held stays; the next sync tries again." },
  unavailable: { word: "No longer offered", icon: "gone", means: "No source offers it; what is held is kept." },
  unvouched: {
    word: "Not vouched for",
    icon: "failed",
    means: "Nobody whom its source is believed by has signed its offers; what is held is kept.",
  },
  unselected: { word: "Will be deleted", icon: "removed", means: "No longer selected; it is about to go." },
};

/** What the operator ticked or unticked and has not saved. */
export const DRAFT = {
  added: { word: "Selected for download", icon: "added" },
  removed: { word: "Will be deleted", icon: "removed" },
  moved: { word: "Will change source", icon: "moved" },
};

export const RACK = {
  never_seen: { word: "Never seen", icon: "queued", means: "Enrolled; it has not asked for anything yet." },
  unreachable: { word: "Unreachable", icon: "failed", means: "It missed three polls. What it holds is still served." },
  ahead: {
    word: "Ahead",
    icon: "failed",
    means: "It knows a manifest that this region never published. Was the database restored? Run new-epoch on the region.",
  },
  waiting_for_operator: {
    word: "Waiting for an operator",
    icon: "waiting",
    means: "It keeps serving images that the region's manifest takes away, until an operator confirms that.",
  },
  failing: { word: "Failing", icon: "failed", means: "Its last poll met an error." },
  pulling: { word: "Pulling", icon: "downloading", means: "It fetches files from the region." },
  outdated: { word: "Outdated", icon: "waiting", means: "It does not show all of the newest manifest yet." },
  synced: { word: "Synced", icon: "synced", means: "It shows everything it should." },
};

/** How an image is on a rack. */
export const ON_RACK = {
  shown: { word: "Shown", icon: "synced", means: "As the region publishes it." },
  pending: { word: "Pending", icon: "downloading", means: "The rack knows of it and lacks it." },
  behind: { word: "Behind", icon: "waiting", means: "The rack has not learnt of it yet; it polls every 5 minutes." },
  ahead: { word: "Ahead", icon: "failed", means: "The rack knows a manifest that this region never published." },
  unreachable: { word: "Unreachable", icon: "failed", means: "The rack missed three polls. It may well serve it." },
};

export const IMPORT = {
  queued: { word: "Queued", icon: "queued" },
  running: { word: "Running", icon: "downloading" },
  succeeded: { word: "Succeeded", icon: "synced" },
  failed: { word: "Failed", icon: "failed" },
  cancelled: { word: "Stopped", icon: "gone" },
};

export const TRIGGER = {
  schedule: "Hourly sync",
  operator: "Sync by hand",
  selection: "Import of a new selection",
  healing: "Repair of lost files",
  retry: "Another attempt",
};

export const ROLE = {
  viewer: { word: "Viewer", means: "sees everything and changes nothing" },
  operator: { word: "Operator", means: "selects, syncs and pins images" },
  admin: { word: "Administrator", means: "may change sources, racks and tokens too" },
};

/** Why a source was refused, in a few words; the sentence beside it says the rest. */
export const REFUSAL = {
  name_not_found: "The mirror's name was not found",
  connection_refused: "Nothing answers there",
  connection_lost: "The connection was lost",
  timed_out: "The mirror did not answer",
  tls_failed: "The mirror's certificate is not trusted",
  address_forbidden: "This address cannot be a mirror",
  http_status: "There is no stream at this address",
  redirect_refused: "The mirror leads elsewhere",
  proxy_failed: "The proxy failed",
  too_large: "This is not a stream",
  invalid_document: "This is not a stream",
  invalid_value: "Not acceptable like this",
  invalid_request: "Not acceptable like this",
  keyring_invalid: "The keyring cannot be used",
  unsigned: "The stream is not signed",
  signature_unknown_key: "Signed by a key you do not trust",
  signature_bad: "The signature is not good",
  signature_expired: "The signature has expired",
  signature_key_revoked: "Signed by a revoked key",
  signature_weak: "The signature can be forged",
  key_too_small: "The key is too small",
  key_algorithm: "The key is of a kind that is not believed",
  key_expired: "The key has expired",
  key_revoked: "The key was revoked",
  too_old: "Older than what was accepted before",
  conflict: "There is one like this already",
  held_undecided: "Say what becomes of what is held",
  unsigned_not_confirmed: "This needs its own confirmation",
  precondition_failed: "Somebody was faster",
  forbidden: "Your role does not allow this",
};

const FIRMWARE = { uefi: "UEFI", pxe: "PXE (BIOS)", "open-firmware": "Open Firmware" };

export function firmwareName(type) {
  return FIRMWARE[type] || type;
}

/** "UEFI amd64" of the id `bootloader:uefi:amd64`. */
export function bootloaderName(id) {
  const [, type, arch] = id.split(":");
  return `${firmwareName(type)} ${arch}`;
}

/** The part of a key's fingerprint that people compare. */
export function keyId(fingerprint) {
  return fingerprint.slice(-16);
}

const UNSIGNED = "unsigned:";

/** Who signed something: key ids, or what is said where nobody did. */
export function signers(fingerprints) {
  if (fingerprints.length === 0) return "nobody known";
  const named = (one) => (one.startsWith(UNSIGNED) ? `nobody; it came from ${one.slice(UNSIGNED.length)}` : keyId(one));
  return fingerprints.map(named).join(" and ");
}

const OS = { ubuntu: "Ubuntu", centos: "CentOS", rhel: "RHEL", debian: "Debian", windows: "Windows" };

function osName(os) {
  return OS[os] || os;
}

/** "Ubuntu 24.04 LTS", "CentOS 7": a title as it reads away from its section. */
export function fullTitle(os, title) {
  return title.toLowerCase().startsWith(osName(os).toLowerCase()) ? title : `${osName(os)} ${title}`;
}
