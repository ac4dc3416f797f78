/** Dependencies as the header has them. Source of the bits: rpm's include/rpm/rpmds.h. */
import { rpmError } from './errors.ts';
import type { RpmHeader } from './header.ts';
import type { RpmDependency, RpmDependencyKind } from './package.ts';
import { dependencyTags } from './tags.ts';

/** RPMSENSE_ bits of `RpmDependency.flags`. */
export const Sense = {
  less: 1 << 1,
  greater: 1 << 2,
  equal: 1 << 3,
  posttrans: 1 << 5,
  prereq: 1 << 6,
  pretrans: 1 << 7,
  interpreter: 1 << 8,
  scriptPre: 1 << 9,
  scriptPost: 1 << 10,
  scriptPreun: 1 << 11,
  scriptPostun: 1 << 12,
  triggerIn: 1 << 16,
  triggerUn: 1 << 17,
  triggerPostun: 1 << 18,
  missingOk: 1 << 19,
  rpmlib: 1 << 24,
  triggerPrein: 1 << 25,
  config: 1 << 28,
  meta: 1 << 29,
} as const;

/** `<`, `=` and so on; `''` for none. */
function operatorOf(flags: number): RpmDependency['operator'] {
  const less = (flags & Sense.less) !== 0 ? '<' : '';
  const greater = (flags & Sense.greater) !== 0 ? '>' : '';
  const equal = (flags & Sense.equal) !== 0 ? '=' : '';
  return `${less}${greater}${equal}` as RpmDependency['operator'];
}

/** Three parallel arrays as one list. */
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

/** All dependencies of a package, by kind. */
export function readAllDependencies(
  header: RpmHeader,
): Record<RpmDependencyKind, readonly RpmDependency[]> {
  const read = (kind: RpmDependencyKind) => readDependencies(header, dependencyTags[kind]);
  return {
    requires: read('requires'),
    provides: read('provides'),
    conflicts: read('conflicts'),
    obsoletes: read('obsoletes'),
    recommends: read('recommends'),
    suggests: read('suggests'),
    supplements: read('supplements'),
    enhances: read('enhances'),
    orderWithRequires: read('orderWithRequires'),
  };
}

/** As `rpm -q --requires` prints it: `name`, `name >= 1.0`, `(a or b)`. */
export function formatDependency({ name, operator, version }: RpmDependency): string {
  return [name, operator, version].filter((part) => part !== '').join(' ');
}
