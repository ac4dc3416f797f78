/** Dependencies as the header has them. Source of the bits: rpm's include/rpm/rpmds.h. */

import type { RpmHeader } from './header.ts';
import { type RpmDependency, type RpmDependencyKind, type RpmEvr, rpmError } from './package.ts';
import { DEPENDENCY_KINDS, dependencyTags } from './tags.ts';

/* Comparing versions. Source: rpm's rpmio/rpmvercmp.cc, lib/rpmver.cc, docs/manual/dependencies.md. */

type Order = -1 | 0 | 1;

/** Everything else separates. */
const SEGMENT = /[0-9]+|[A-Za-z]+|[~^]/g;

/** The kinds of segments, in their order; an empty one is the end. */
const KINDS = [/^~/, /^$/, /^\^/, /^[A-Za-z]/, /^[0-9]/];
const NUMBER = 4;

function kindOf(segment: string): number {
  return KINDS.findIndex((kind) => kind.test(segment));
}

/**
 * rpmvercmp, of two versions or two releases. `~` sorts before everything, even the end (`1.0~rc1 < 1.0`); `^` after
 * the end, but before any further segment (`1.0 < 1.0^git1 < 1.0.1`).
 */
export function compareVersions(one: string, two: string): Order {
  const a = one.match(SEGMENT) ?? [];
  const b = two.match(SEGMENT) ?? [];
  for (let at = 0; at < Math.max(a.length, b.length); at++) {
    const [x = '', y = ''] = [a[at], b[at]];
    const kinds = kindOf(x) - kindOf(y);
    if (kinds !== 0) return kinds < 0 ? -1 : 1;
    const order = kindOf(x) === NUMBER ? compareNumbers(x, y) : ordered(x, y);
    if (order !== 0) return order;
  }
  return 0;
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

/** As name-epoch:version-release.arch, where epoch 0 is left out. */
export function nevra(of: RpmEvr & { readonly name: string; readonly arch: string }): string {
  return `${of.name}-${formatEvr({ ...of, epoch: of.epoch || null })}.${of.arch}`;
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
