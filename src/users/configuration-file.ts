/** Where kiln.yaml lies: root's, and a caller's own. Light, because each process of kiln's loads it. */
import { isUtf8 } from 'node:buffer';
import { fstatSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { closing } from '../host/calls/descriptor.ts';
import { errnoName, hasErrno } from '../host/calls/libc.ts';
import { lineNotUtf8, NotUtf8, openUserFile } from '../host/files/user-file.ts';
import { ROOTS_FILE } from '../host/state/paths.ts';

export function configurationFile(env: { readonly KILN_CONFIG?: string | undefined }): string {
  return env.KILN_CONFIG || ROOTS_FILE;
}

/** Bytes: a caller's own file is written by hand. */
export const CONFIGURATION_MAX: number = 64 << 10;

/** A caller's own kiln.yaml, as the caller's rights could read it. */
export interface CallersConfiguration {
  readonly file: string;
  /** An errno where it cannot be used, or 0. */
  readonly problem: number;
  readonly text: string;
}

const { EPERM, EFBIG, EINVAL, EILSEQ } = constants.errno;

const PROBLEMS: Readonly<Record<number, string>> = {
  [EPERM]: 'it is somebody else’s, or others can write it: chown it to yourself, and chmod go-w',
  [EFBIG]: `it is larger than ${CONFIGURATION_MAX} bytes`,
  [EINVAL]: 'it is not a text file',
};

export function problemOf({ problem, text }: CallersConfiguration): string | undefined {
  if (problem === EILSEQ) return notUtf8(text);
  return problem === 0 ? undefined : (PROBLEMS[problem] ?? `cannot be read: ${errnoName(problem)}`);
}

/** @param text as {@link lineNotUtf8} takes it */
export function notUtf8(text: string): string {
  return `line ${lineNotUtf8(text)} is not UTF-8; ${NotUtf8.hint}`;
}

/** What a caller's own file has, as text only if it is UTF-8 and short. What a client has looked at counts for nothing. */
export function callersText(file: string, problem: number, bytes: Buffer): CallersConfiguration {
  if (bytes.length > CONFIGURATION_MAX) return { file, problem: EFBIG, text: '' };
  const found = problem === 0 && !isUtf8(bytes) ? EILSEQ : problem;
  return { file, problem: found, text: bytes.toString('utf8') };
}

/** Reads a caller's own file in the caller's own process, as append_configuration() of the client does. */
export function readCallersConfiguration(
  { XDG_CONFIG_HOME, HOME }: NodeJS.ProcessEnv,
  uid: number,
): CallersConfiguration | undefined {
  const folder = XDG_CONFIG_HOME?.startsWith('/') ? XDG_CONFIG_HOME : HOME && `${HOME}/.config`;
  if (!folder?.startsWith('/')) return undefined;
  const file = `${folder}/kiln.yaml`;
  const failed = (problem: number) => ({ file, problem, text: '' });
  let fd: number;
  try {
    fd = openUserFile(file);
  } catch (error) {
    return hasErrno(error, 'ENOENT', 'ENOTDIR', 'EACCES') ? undefined : failed(EINVAL);
  }
  using _fd = closing(fd);
  const stats = fstatSync(fd);
  const isForeign = stats.uid !== 0 && stats.uid !== uid;
  if (isForeign || (stats.mode & (uid === 0 ? 0o022 : 0o002)) !== 0) return failed(EPERM);
  if (stats.size > CONFIGURATION_MAX) return failed(EFBIG);
  const bytes = readFileSync(fd);
  return bytes.includes(0) ? failed(EINVAL) : callersText(file, 0, bytes);
}
