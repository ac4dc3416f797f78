/** Dependencies as the header has them. Source of the bits: rpm's include/rpm/rpmds.h. */

import type { RpmHeader } from './header.ts';
import { type RpmDependency, type RpmDependencyKind, type RpmEvr, rpmError } from './package.ts';
import { DEPENDENCY_KINDS, dependencyTags } from './tags.ts';

/* Comparing versions. Source: rpm's rpmio/rpmvercmp.cc, lib/rpmver.cc, docs/manual/dependencies.md. */

type Order = -1 | 0 | 1;

const SEPARATORS = /^[^A-Za-z0-9~^]+/;
const DIGITS = /^[0-9]+/;
const LETTERS = /^[A-Za-z]+/;

/**
 * rpmvercmp, of two versions or two releases. `~` sorts before everything, even the end (`1.0~rc1 < 1.0`); `^` after
 * the end, but before any further segment (`1.0 < 1.0^git1 < 1.0.1`).
 */
export function compareVersions(one: string, two: string): Order {
  if (one === two) return 0;
  let a = one;
  let b = two;
  for (;;) {
    a = a.replace(SEPARATORS, '');
    b = b.replace(SEPARATORS, '');
    if (a.startsWith('~') || b.startsWith('~')) {
      if (!a.startsWith('~')) return 1;
      if (!b.startsWith('~')) return -1;
      a = a.slice(1);
      b = b.slice(1);
      continue;
    }
    if (a.startsWith('^') || b.startsWith('^')) {
      if (a === '') return -1;
      if (b === '') return 1;
      if (!a.startsWith('^')) return 1;
      if (!b.startsWith('^')) return -1;
      a = a.slice(1);
      b = b.slice(1);
      continue;
    }
    if (a === '' || b === '') break;
    const kind = DIGITS.test(a) ? DIGITS : LETTERS;
    const segmentA = kind.exec(a)![0];
    const segmentB = kind.exec(b)?.[0];
    if (segmentB === undefined) return kind === DIGITS ? 1 : -1;
    const order =
      kind === DIGITS ? compareNumbers(segmentA, segmentB) : ordered(segmentA, segmentB);
    if (order !== 0) return order;
    a = a.slice(segmentA.length);
    b = b.slice(segmentB.length);
  }
  if (a === '' && b === '') return 0;
  return a === '' ? -1 : 1;
}

/** Compares decimal numbers of any length, which may exceed any integer type. */
function compareNumbers(one: string, two: string): Order {
  const a = one.replace(/^0+/, '');
  const b = two.replace(/^0+/, '');
  if (a.length !== b.length) return a.length < b.length ? -1 : 1;
  return ordered(a, b);
}

function ordered(a: string, b: string): Order {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

export function compareEvr(a: RpmEvr, b: RpmEvr): Order {
  const epochs = compareNumbers(String(a.epoch ?? 0), String(b.epoch ?? 0));
  if (epochs !== 0) return epochs;
  const versions = compareVersions(a.version, b.version);
  return versions === 0 ? compareVersions(a.release, b.release) : versions;
}

export function parseEvr(text: string): RpmEvr {
  const epoch = /^([0-9]*):/.exec(text);
  const rest = epoch === null ? text : text.slice(epoch[0].length);
  const dash = rest.lastIndexOf('-');
  return {
    epoch: epoch === null ? null : Number(epoch[1] || 0),
    version: dash < 0 ? rest : rest.slice(0, dash),
    release: dash < 0 ? '' : rest.slice(dash + 1),
  };
}

export function formatEvr({ epoch, version, release }: RpmEvr): string {
  return `${epoch === null ? '' : `${epoch}:`}${version}${release === '' ? '' : `-${release}`}`;
}

/** RPMSENSE_ bits of `RpmDependency.flags`. */
export const Sense = {
  less: 1 << 1,
  greater: 1 << 2,
  equal: 1 << 3,
  prereq: 1 << 6,
  scriptPre: 1 << 9,
  scriptPost: 1 << 10,
  triggerIn: 1 << 16,
  triggerUn: 1 << 17,
  triggerPrein: 1 << 25,
} as const;

function operatorOf(flags: number): RpmDependency['operator'] {
  const less = (flags & Sense.less) !== 0 ? '<' : '';
  const greater = (flags & Sense.greater) !== 0 ? '>' : '';
  const equal = (flags & Sense.equal) !== 0 ? '=' : '';
  return `${less}${greater}${equal}` as RpmDependency['operator'];
}

export function readDependencies(
  header: RpmHeader,
  [nameTag, flagsTag, versionTag]: readonly [number, number, number],
): RpmDependency[] {
  const names = header.strings(nameTag) ?? [];
  const flags = header.numbers(flagsTag);
  const versions = header.strings(versionTag);
  for (const [what, list] of [
    ['flags', flags],
    ['versions', versions],
  ] as const) {
    if (list !== undefined && list.length !== names.length) {
      const message = `the header is broken: ${names.length} dependencies have ${list.length} ${what}`;
      throw rpmError('E_RPM_FORMAT', message);
    }
  }
  return names.map((name, i) => {
    const bits = flags?.[i] ?? 0;
    return { name, operator: operatorOf(bits), version: versions?.[i] ?? '', flags: bits };
  });
}

export function readAllDependencies(
  header: RpmHeader,
): Record<RpmDependencyKind, readonly RpmDependency[]> {
  const read = (kind: RpmDependencyKind) => [kind, readDependencies(header, dependencyTags[kind])];
  return Object.fromEntries(DEPENDENCY_KINDS.map(read));
}

export function formatDependency({ name, operator, version }: RpmDependency): string {
  return [name, operator, version].filter((part) => part !== '').join(' ');
}
