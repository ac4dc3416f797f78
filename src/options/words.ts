import { resolve } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { defined } from '../defined.ts';
import { parseEgressRule } from '../egress/rule.ts';
import { MINIMUM_MEMORY } from '../sandbox/policy/limits.ts';
import type { Tmpfs, WantedBind } from '../sandbox/policy/specification.ts';
import { HOSTNAME, sizeInBytes } from './measures.ts';

export function read<Value>(value: Value | undefined, how: string): Value {
  if (value !== undefined) return value;
  throw new InvalidArgumentError(how);
}

function positive(value = 0): number | undefined {
  return value > 0 ? value : undefined;
}

/** Not 0, which is no limit to some who are told it. */
export function asSize(bytes: number | undefined): number {
  return read(positive(bytes), 'not a size: write it as 512M or 2G.');
}

export function asMemory(bytes: number | undefined): number {
  const how = 'less than a sandbox takes: give 4M or more.';
  return read(asSize(bytes) >= MINIMUM_MEMORY ? bytes : undefined, how);
}

export function asRate(bytes: number | undefined): number {
  return read(positive(bytes), 'not a rate: write bytes per second as 10M or 512K.');
}

export function asTime(milliseconds: number | undefined): number {
  return read(positive(milliseconds), 'not a duration: write it as 90s, 10m or 1h30m.');
}

export function asCount(count = 0): number {
  const isCount = Number.isInteger(count) && count > 0 && count < 1e10;
  return read(isCount ? count : undefined, 'not a positive number.');
}

/** The smallest share that the kernel can give: thousandths of a second of each tenth. */
const MINIMUM_CPUS = 0.01;

export function asCpus(cpus = 0): number {
  const how = 'not a number of processors from 0.01: write it as 2 or 0.5.';
  return read(cpus >= MINIMUM_CPUS ? cpus : undefined, how);
}

/** Bytes of `512M`, `2G`, `1.5GiB`, `4096`: powers of 1024. */
export function parseSize(text: string): number {
  return asSize(sizeInBytes(text));
}

export function parseCount(text: string): number {
  return asCount(/^[1-9]\d*$/.test(text) ? Number(text) : 0);
}

const BIND_OPTIONS = ['ro', 'rw', 'z', 'Z', 'nolinks'];

/** `SRC:DST[:ro|rw]`; SRC is relative to `cwd`, DST absolute in the sandbox. */
export function parseBind(text: string, cwd: string): WantedBind {
  const [source, target, mode = 'rw', ...more] = text.split(':');
  if (!source || more.length > 0)
    throw new InvalidArgumentError('write it as SRC:DST[:ro|rw][,z|Z][,nolinks].');
  const options = mode.split(',');
  const unknown = options.find((option) => !BIND_OPTIONS.includes(option));
  if (unknown !== undefined) {
    throw new InvalidArgumentError(
      `unknown option ${unknown}: there are ro, rw, z, Z and nolinks.`,
    );
  }
  const absolute = resolve(cwd, source);
  const relabel = options.includes('Z') ? 'private' : options.includes('z') ? 'shared' : undefined;
  return {
    source: absolute,
    target: mountTarget(target ?? absolute),
    readonly: options.includes('ro'),
    ...(options.includes('nolinks') ? { noLinks: true } : {}),
    ...defined({ relabel }),
  };
}

export function parseCopyIn(text: string, cwd: string): { source: string; target: string } {
  const colon = text.lastIndexOf(':');
  if (colon <= 0) throw new InvalidArgumentError('write it as SRC:DST.');
  // Not resolved, because a slash or `/.` at the end has a meaning.
  const source = text.slice(0, colon);
  const target = text.slice(colon + 1);
  absoluteTarget(target);
  return { source: source.startsWith('/') ? source : `${cwd}/${source}`, target };
}

export function parseTmpfs(text: string): Tmpfs {
  const [target = '', size, ...more] = text.split(':');
  if (more.length > 0) throw new InvalidArgumentError('write it as DST[:SIZE].');
  return { target: mountTarget(target), ...(size === undefined ? {} : { bytes: parseSize(size) }) };
}

export const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** `NAME=VALUE`, or `NAME` for the caller's own value of it: undefined where the caller has none. */
export function parseEnvironment(
  text: string,
  variable: (name: string) => string | undefined,
): [string, string] | undefined {
  const equals = text.indexOf('=');
  const name = equals < 0 ? text : text.slice(0, equals);
  if (!VARIABLE.test(name)) {
    throw new InvalidArgumentError('write it as NAME=VALUE.');
  }
  const value = equals < 0 ? variable(name) : text.slice(equals + 1);
  return value === undefined ? undefined : [name, value];
}

export function parseHostname(text: string): string {
  if (HOSTNAME.test(text)) return text;
  throw new InvalidArgumentError('1 to 63 letters, digits, . and -, not . or - first.');
}

export function parseSecret(text: string, cwd: string): { name: string; file: string } {
  const [, name = '', file = ''] = /^([\w.-]+)=(.+)$/.exec(text) ?? [];
  return { name: secretName(file && name), file: resolve(cwd, file) };
}

export function secretName(name: string): string {
  if (/^[\w-][\w.-]*$/.test(name)) return name;
  throw new InvalidArgumentError('write it as NAME=FILE.');
}

export function mountTarget(path: string): string {
  const place = resolve(absoluteTarget(path));
  if (place === '/' || place === '/proc' || place.startsWith('/proc/')) {
    throw new InvalidArgumentError(`nothing can be mounted on ${place} of a sandbox.`);
  }
  return path;
}

export function absoluteTarget(path: string): string {
  if (!path.startsWith('/') || path.split('/').includes('..')) {
    throw new InvalidArgumentError(`${path || 'the target'} is not an absolute path without “..”.`);
  }
  return path;
}

export function parseEgress(text: string): string {
  if (parseEgressRule(text) !== undefined) return text;
  throw new InvalidArgumentError('not a host: write it as HOST, HOST:PORT or *.HOST.');
}
