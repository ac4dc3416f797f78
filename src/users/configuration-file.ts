/** Where kiln.yaml lies: root's, and a caller's own. Light, because each process of kiln's loads it. */
import { fstatSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { closing } from '../host/calls/descriptor.ts';
import { errnoName, hasErrno } from '../host/calls/libc.ts';
import { openUserFile } from '../host/files/user-file.ts';

export const ROOTS_FILE = '/etc/kiln/kiln.yaml';

/** KILN_CONFIG is for tests, and the daemon's own variable, never a caller's. */
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

const { EPERM, EFBIG, EINVAL } = constants.errno;

const PROBLEMS: Readonly<Record<number, string>> = {
  [EPERM]: 'it is somebody else’s, or others can write it: chown it to yourself, and chmod go-w',
  [EFBIG]: `it is larger than ${CONFIGURATION_MAX} bytes`,
  [EINVAL]: 'it is no text file',
};

export function problemOf({ problem }: CallersConfiguration): string | undefined {
  return problem === 0 ? undefined : (PROBLEMS[problem] ?? `cannot be read: ${errnoName(problem)}`);
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
  const text = readFileSync(fd, 'utf8');
  return text.includes('\0') ? failed(EINVAL) : { file, problem: 0, text };
}
