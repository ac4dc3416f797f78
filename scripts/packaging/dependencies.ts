/** What packages of kiln depend on, from scripts/host-packages.txt. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const TABLE = join(import.meta.dirname, '../host-packages.txt');

interface Need {
  readonly need: string;
  readonly debian: string;
  readonly fedora: string;
  readonly suse: string;
}

/** What kiln needs to run, what kiln-mock does for mock's configurations, or what scripts/fixtures does. */
function needs(wanted: 'run' | 'mock' | 'fixtures' = 'run'): Need[] {
  return readFileSync(TABLE, 'utf8')
    .split('\n')
    .map((line) => line.split(/ +/))
    .filter(([use]) => use === wanted)
    .map(([, need = '', debian = '', fedora = '', suse = '']) => ({ need, debian, fedora, suse }));
}

function unique(names: readonly string[]): string[] {
  return [...new Set(names)].sort();
}

/** Every Debian has them, and its policy forbids to depend on them without a version. */
const ESSENTIAL = ['util-linux', 'dpkg'];

function debian(packages: readonly string[]): string {
  return unique(packages.filter((name) => !ESSENTIAL.includes(name))).join(', ');
}

/** `Depends` of the .deb. kernel.node and Node take the C library of Debian 12 or newer. */
export function debianDepends(): string {
  const packages = needs().map(({ debian }) => debian);
  return debian([...packages, 'libc6 (>= 2.36)', 'libstdc++6', 'passwd']);
}

/**
 * `Recommends` of the .deb: what it takes to make images of Debian, keys of RPM distributions for theirs, and what
 * evaluates mock's configurations.
 */
export function debianRecommends(): string {
  const packages = [...needs('fixtures'), ...needs('mock')].map(({ debian }) => debian);
  return debian([...packages, 'distribution-gpg-keys']);
}

/** Lines of the spec. Libraries by their sonames, all else by the names that Fedora or SUSE have for it. */
export function rpmRequires(): string {
  const required = [...needs().map(rpmName), 'libstdc++.so.6()(64bit)', '/usr/bin/sh'];
  return [
    ...unique(required).map((name) => `Requires: ${name}\n`),
    ...unique(needs('mock').map(rpmName)).map((name) => `Recommends: ${name}\n`),
  ].join('');
}

function rpmName({ need, fedora, suse }: Need): string {
  const [, library] = /^library:(.*)/.exec(need) ?? [];
  if (library !== undefined) return `${library}()(64bit)`;
  return fedora === suse ? fedora : `(${fedora} or ${suse})`;
}
