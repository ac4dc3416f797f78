/**
 * Names of what this process holds open: `/proc/PID/fd/N`, and what lies below it. Whoever named the file or folder,
 * the name is not looked up again, whatever is put in its place. Source: proc_pid_fd(5).
 */
import { constants, openSync, readlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { DIRECTORY_BELOW, openat2 } from './at.ts';

declare const HELD: unique symbol;

/** A path that no caller can redirect: of an open descriptor, or in a folder that only kiln writes to. */
export type HeldPath = string & { readonly [HELD]: true };

let prefix: string | undefined;

/** With the number of this process, which no log of a sandbox has by chance; as /proc has it, not getpid(2). */
export function heldPrefix(): string {
  prefix ??= `/proc/${readlinkSync('/proc/self')}/fd/`;
  return prefix;
}

export function heldPath(fd: number): HeldPath {
  return `${heldPrefix()}${fd}` as HeldPath;
}

export function below(folder: HeldPath, name: string): HeldPath {
  return `${folder}/${name}` as HeldPath;
}

/** For folders of kiln's own, as in KILN_STATE: who calls this knows that no caller has named the path. */
export function ownPath(path: string): HeldPath {
  return path as HeldPath;
}

/** A word of a command line in whose place is what was opened: admit(), rootLine() and userLine() see to it first. */
export function openedPath(word: string): HeldPath {
  return word as HeldPath;
}

interface HeldParts {
  readonly fd: number;
  /** Below the descriptor; empty for the descriptor itself. */
  readonly rest: string;
}

export function heldParts(path: string): HeldParts | undefined {
  if (!path.startsWith(heldPrefix())) return undefined;
  const [, number, rest = ''] = /^(\d+)(?:\/+(.*))?$/s.exec(path.slice(heldPrefix().length)) ?? [];
  return number === undefined ? undefined : { fd: Number(number), rest };
}

/** Below a held folder no link is followed, on no part of the path. Elsewhere all are. @throws the system's error */
export function openFolder(path: string): number {
  const held = heldParts(path);
  if (held === undefined) return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  return openat2(held.fd, held.rest === '' ? '.' : held.rest, DIRECTORY_BELOW);
}

/**
 * What clients have opened, by the names that their callers have for it; undefined for what was not there. A worker has
 * one job at a time; of two callers in kilnd's own process who give one name, the later one counts.
 */
const named = new Map<string, (number | undefined)[]>();

/** Until it is disposed of, the name means what is open, and what lies below it. @param name absolute */
export function nameHeld(name: string, fd: number | undefined): Disposable {
  const all = named.get(name) ?? [];
  named.set(name, [...all, fd]);
  return {
    [Symbol.dispose]: () => {
      const left = named.get(name) ?? [];
      left.splice(left.lastIndexOf(fd), 1);
      if (left.length === 0) named.delete(name);
    },
  };
}

/** Where this process finds what a caller calls so; what nobody holds, by its name. @param name absolute */
export function foundAt(name: string): string {
  if (named.size === 0) return name;
  const path = name.replace(/(?<=.)\/+$/s, '');
  for (let at = path; ; at = dirname(at)) {
    const fds = named.get(at);
    const rest = path.slice(at.length).replace(/^\/*/, '/');
    if (fds !== undefined)
      return `${heldPrefix()}${fds.at(-1) ?? 'nothing'}${rest === '/' ? '' : rest}`;
    if (at === dirname(at)) return name;
  }
}
