/**
 * Exits 0 if node_modules holds what package-lock.json asks for, else 1.
 * npm keeps a lock of what it installed in node_modules/.package-lock.json; the two are compared
 * by version. Only an optional package for another platform may be missing.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

interface Entry {
  readonly version?: string;
  readonly optional?: boolean;
  readonly os?: readonly string[];
  readonly cpu?: readonly string[];
  readonly libc?: readonly string[];
}

interface Lock {
  readonly packages: Readonly<Record<string, Entry>>;
}

const top = join(import.meta.dirname, '../..');

function read(path: string): Lock['packages'] {
  return (JSON.parse(readFileSync(join(top, path), 'utf8')) as Lock).packages;
}

function mayBeMissing(entry: Entry): boolean {
  if (entry.optional !== true) return false;
  const here = (names: readonly string[] | undefined, name: string) =>
    names === undefined || names.includes(name);
  const forThisMachine =
    here(entry.os, process.platform) && here(entry.cpu, process.arch) && here(entry.libc, 'glibc');
  // Optional without naming a platform: npm decides, and not finding it is no fault.
  return !forThisMachine || (entry.os === undefined && entry.cpu === undefined);
}

function whole(): boolean {
  const wanted = read('package-lock.json');
  let present: Lock['packages'];
  try {
    present = read('node_modules/.package-lock.json');
  } catch {
    return false;
  }
  return Object.entries(wanted).every(([path, entry]) => {
    if (path === '') return true;
    const found = present[path];
    return found === undefined ? mayBeMissing(entry) : found.version === entry.version;
  });
}

process.exitCode = whole() ? 0 : 1;
