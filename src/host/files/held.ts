/**
 * Names of what this process holds open: `/proc/PID/fd/N`, and what lies below it. Whoever named the file or folder,
 * the name is not looked up again, whatever is put in its place. Source: proc_pid_fd(5).
 */
import { constants, openSync, readlinkSync } from 'node:fs';
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
