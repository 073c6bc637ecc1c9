// Ubuntu's two groups of boxes, releases and architectures, over a selection that knows pairs of them. Pure.
//
// A release is ticked when one of its images is wanted, an architecture when it is wanted for every ticked release that
// has it, and half when for some. `loose` remembers ticks that make no image yet: a release without any architecture.

/** What the boxes show. `offered` and `wanted`: arrays of { release, arch }; `loose`: { releases, arches } as sets. */
export function boxes(offered, wanted, loose) {
  const releases = new Set([...wanted.map((image) => image.release), ...loose.releases]);
  const pairs = new Set(offered.map(pair));
  const have = new Set(wanted.map(pair));
  const arches = new Map();
  for (const arch of new Set([...offered, ...wanted].map((image) => image.arch))) {
    const able = [...releases].filter((release) => pairs.has(pair({ release, arch })));
    const ticked = [...releases].filter((release) => have.has(pair({ release, arch })));
    const every = ticked.length > 0 && able.every((release) => ticked.includes(release));
    arches.set(arch, {
      checked: every || (ticked.length === 0 && loose.arches.has(arch)),
      partly: ticked.length > 0 && !every,
      lackedBy: [...releases].filter((release) => !pairs.has(pair({ release, arch }))),
      disabled: releases.size > 0 && able.length === 0 && ticked.length === 0,
    });
  }
  return { releases, arches };
}

/** Tick or untick a release: the images to add and to unselect, and the loose ticks afterwards. */
export function toggleRelease(release, on, offered, wanted, loose) {
  const { arches } = boxes(offered, wanted, loose);
  const ticked = [...arches].filter(([, box]) => box.checked || box.partly).map(([arch]) => arch);
  const rest = { releases: new Set(loose.releases), arches: new Set(ticked) };
  if (!on) {
    rest.releases.delete(release);
    return { add: [], remove: wanted.filter((image) => image.release === release), loose: rest };
  }
  const add = offered.filter((image) => image.release === release && ticked.includes(image.arch));
  if (add.length === 0) rest.releases.add(release);
  return { add, remove: [], loose: rest };
}

/** Tick or untick an architecture, for every ticked release that has it. */
export function toggleArch(arch, on, offered, wanted, loose) {
  const { releases } = boxes(offered, wanted, loose);
  const rest = { releases: new Set(releases), arches: new Set(loose.arches) };
  if (!on) {
    rest.arches.delete(arch);
    return { add: [], remove: wanted.filter((image) => image.arch === arch), loose: rest };
  }
  rest.arches.add(arch);
  const have = new Set(wanted.map(pair));
  const add = offered.filter(
    (image) => image.arch === arch && releases.has(image.release) && !have.has(pair(image)),
  );
  return { add, remove: [], loose: rest };
}

function pair({ release, arch }) {
  return `${release}:${arch}`;
}
