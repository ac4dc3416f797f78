import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { execa } from 'execa';
import { PATIENCE } from '../support/busybox-state.ts';

const top = join(import.meta.dirname, '../..');

/** Real packages that others made: every compressor, v4 and v6, source and binary, signed. */
export const packages: readonly string[] = ['compressors', 'signed'].flatMap((directory) =>
  readdirSync(join(top, 'fixtures/rpms', directory))
    .filter((name) => name.endsWith('.rpm'))
    .map((name) => join(top, 'fixtures/rpms', directory, name)),
);

export function fixture(name: string): string {
  const found = packages.find((path) => path.includes(name));
  if (found === undefined) throw new Error(`no fixture package ${name}`);
  return found;
}

export function keyFile(name: string): string {
  return join(top, 'fixtures/keys', `rpm-testkey-${name}.asc`);
}

/** A directory of the test's own, gone after it. */
export function scratch(t: ExecutionContext): string {
  const path = mkdtempSync('/tmp/kiln-test-rpm-');
  t.teardown(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Writes bytes to a file in a directory; returns its path. */
export function put(directory: string, name: string, bytes: Buffer): string {
  const path = join(directory, name);
  writeFileSync(path, bytes);
  return path;
}

/** Runs the real command line. */
export async function kiln(...args: readonly string[]) {
  return await execa(join(top, 'bin/kiln'), args, {
    reject: false,
    env: { KILN_FROM_SOURCE: process.env.KILN_FROM_SOURCE ?? '1', KILN_NODE: process.execPath },
    maxBuffer: 256 * 1024 * 1024,
    timeout: 120_000 * PATIENCE,
    killSignal: 'SIGKILL',
  });
}

/** Runs rpm in the C locale, with a database of nobody's. */
export async function rpm(...args: readonly string[]): Promise<string> {
  const options = { env: { LC_ALL: 'C' }, maxBuffer: 256 * 1024 * 1024 };
  const { stdout } = await execa('rpm', ['--dbpath', '/nonexistent', ...args], options);
  return stdout;
}
