import { accessSync, constants, existsSync, statfsSync } from 'node:fs';
import { dirname } from 'node:path';
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { attempt, hasErrno, SyscallError } from './libc.ts';

export const DISK_FULL = 'E_DISK_FULL';

export function isDiskFull(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (hasErrno(cause, 'ENOSPC', 'EDQUOT')) return true;
    if (cause instanceof KilnError && cause.code === DISK_FULL) return true;
  }
  return false;
}

export function namingFullDisk(error: unknown, directory: string): unknown {
  if (!isDiskFull(error)) return error;
  const inodes = lacksInodes(directory);
  return new KilnError(DISK_FULL, `no ${inodes ? 'inode' : 'room'} is left for ${directory}`, {
    cause: error,
    hint: inodes ? inodesHint(directory) : ROOM,
  });
}

interface Meaning {
  readonly code: ErrorCode;
  readonly reason: string;
  readonly hint: string;
}

const ROOM = '`kiln gc --max-size 10G` makes room; KILN_STATE may lie on another disk';

/** Errnos of errno(3) that the host or its operator causes. All others mean a mistake in kiln. */
const MEANINGS: Readonly<Record<string, Meaning>> = {
  ENOSPC: { code: DISK_FULL, reason: 'no space is left', hint: ROOM },
  EDQUOT: { code: DISK_FULL, reason: 'the disk quota is used up', hint: ROOM },
  EFBIG: {
    code: 'E_FILE_TOO_BIG',
    reason: 'the file would be too big',
    hint: 'kiln limits what untrusted files may grow to; `ulimit -f` limits the rest',
  },
  EROFS: {
    code: 'E_READ_ONLY',
    reason: 'the file system is read-only',
    hint: 'mount it writable, or name another folder in KILN_STATE',
  },
  EACCES: {
    code: 'E_PERMISSION',
    reason: 'permission denied',
    hint: '`kiln doctor` tells which rights kiln lacks here',
  },
  EPERM: {
    code: 'E_PERMISSION',
    reason: 'the operation is not permitted',
    hint: '`kiln doctor` tells which rights kiln lacks here',
  },
  EMFILE: {
    code: 'E_TOO_MANY_FILES',
    reason: 'kiln has too many open files',
    hint: 'raise the limit: `ulimit -n 65536`',
  },
  ENFILE: {
    code: 'E_TOO_MANY_FILES',
    reason: 'the host has too many open files',
    hint: 'end what holds them open, or raise the sysctl fs.file-max',
  },
  ENOMEM: {
    code: 'E_NO_MEMORY',
    reason: 'the host has no memory left',
    hint: 'end other programs, or give kiln a larger memory limit',
  },
  EAGAIN: {
    code: 'E_TOO_MANY_PROCESSES',
    reason: 'the host allows no more processes',
    hint: 'end other programs, or raise the limit: `ulimit -u`',
  },
  EIO: {
    code: 'E_IO',
    reason: 'the disk reports an input/output error',
    hint: '`dmesg` tells more about the disk',
  },
  ENOENT: {
    code: 'E_PATH',
    reason: 'it does not exist',
    hint: 'another program may have removed it: try again',
  },
  ENOTDIR: {
    code: 'E_PATH',
    reason: 'a part of the path is not a folder',
    hint: 'remove or rename what is in the way',
  },
  EISDIR: {
    code: 'E_PATH',
    reason: 'it is a folder',
    hint: 'name a file, or remove or rename the folder',
  },
  ELOOP: {
    code: 'E_PATH',
    reason: 'there are symbolic links in its path, where none are followed',
    hint: 'name the place that the link leads to',
  },
  ENAMETOOLONG: { code: 'E_PATH', reason: 'its name is too long', hint: 'use a shorter path' },
};

/** Errnos that the user or the host causes only if a path is named. Without a path, kiln made a mistake. */
const NEED_PATH = new Set(['ENOENT', 'ENOTDIR', 'EISDIR', 'ELOOP', 'ENAMETOOLONG']);

const ACTIONS: Readonly<Record<string, string>> = {
  access: 'find',
  chmod: 'change the mode of',
  chown: 'change the owner of',
  copyfile: 'copy',
  fsync: 'write',
  link: 'link',
  lstat: 'look at',
  mkdir: 'make the folder',
  mkdtemp: 'make a folder',
  open: 'open',
  openat: 'open',
  openat2: 'open',
  read: 'read',
  readlink: 'read',
  rename: 'rename',
  rm: 'remove',
  rmdir: 'remove',
  scandir: 'list',
  spawn: 'start',
  stat: 'look at',
  statfs: 'look at',
  symlink: 'make the link',
  unlink: 'remove',
  utime: 'change the time of',
  write: 'write',
};

interface FailedCall {
  readonly call: string;
  readonly errno: string;
  readonly path: string | undefined;
}

/**
 * The error to show: a KilnError as it is, a failure of the system in words; undefined if only a mistake in
 * kiln explains it. If clean-up failed after the first error (SuppressedError), the first one counts.
 */
export function knownFailure(error: unknown): KilnError | undefined {
  if (error instanceof SuppressedError) return knownFailure(error.suppressed);
  const failed = failedCall(error);
  // SyscallError is a KilnError too, but it has no hint.
  if (failed === undefined) return error instanceof KilnError ? error : undefined;
  return inWords(failed, error) ?? (error instanceof KilnError ? error : undefined);
}

function failedCall(error: unknown): FailedCall | undefined {
  if (error instanceof SyscallError) {
    const subject = error.details?.subject;
    const path = typeof subject === 'string' && subject !== '' ? subject : undefined;
    return { call: error.call, errno: error.errnoName, path };
  }
  if (error instanceof KilnError || !(error instanceof Error)) return undefined;
  const { code, syscall, path } = error as NodeJS.ErrnoException;
  if (code === undefined || syscall === undefined) return undefined;
  const hidden = syscall === 'mkdir' && code === 'ENOENT' && path !== undefined;
  return { call: syscall, errno: hidden && isReadOnly(path) ? 'EROFS' : code, path };
}

/** Node's recursive mkdir says ENOENT where the file system is read-only. */
function isReadOnly(path: string): boolean {
  let at = dirname(path);
  while (at !== dirname(at) && !existsSync(at)) at = dirname(at);
  try {
    accessSync(at, constants.W_OK);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EROFS';
  }
}

function inWords({ call, errno, path }: FailedCall, cause: unknown): KilnError | undefined {
  if (call === 'uv_cwd') return workingDirectoryError(cause);
  const meaning = Object.hasOwn(MEANINGS, errno) ? MEANINGS[errno] : undefined;
  if (meaning === undefined || (path === undefined && NEED_PATH.has(errno))) return undefined;
  // EAGAIN of other calls means "call again", which kiln does.
  if (errno === 'EAGAIN' && !/^(?:spawn|fork|v?clone)/.test(call)) return undefined;
  const action = Object.hasOwn(ACTIONS, call) ? ACTIONS[call] : call.replace(/^spawn .*/, 'start');
  const subject = path === undefined ? '' : ` ${path}`;
  if (errno === 'ENOSPC' && path !== undefined && lacksInodes(path)) {
    return new KilnError(DISK_FULL, `cannot ${action}${subject}: no inode is left`, {
      hint: inodesHint(dirname(path)),
      cause,
      details: { call, errno, path },
    });
  }
  return new KilnError(meaning.code, `cannot ${action}${subject}: ${meaning.reason}`, {
    hint: hintFor(path, meaning),
    cause,
    details: { call, errno, path },
  });
}

function inodesHint(folder: string): string {
  return `remove files: \`df -i ${folder}\` shows inodes; \`kiln gc\` removes what kiln needs no more`;
}

/** Whether the file system has blocks, but no inode. Some file systems count none. @param path may be missing */
export function lacksInodes(path: string): boolean {
  // A held path's parent is /proc.
  const found = attempt(() => statfsSync(path)) ?? attempt(() => statfsSync(dirname(path)));
  return found !== undefined && found.files > 0 && found.ffree === 0 && found.bavail > 0;
}

function hintFor(path: string | undefined, { code, hint }: Meaning): string {
  const kernel = path !== undefined && /^\/(?:sys|proc)\//.test(path);
  if (kernel && (code === 'E_READ_ONLY' || code === 'E_PATH'))
    return '`kiln doctor` tells what kiln needs of this host';
  if (code === DISK_FULL && path?.startsWith('/run/'))
    return 'make room in /run: it lies in memory';
  return hint;
}

export function asKilnError(error: unknown, subject?: string): KilnError {
  const known = knownFailure(error);
  if (known !== undefined) return known;
  const message = error instanceof Error ? error.message : String(error);
  return new KilnError('E_INTERNAL', subject === undefined ? message : `${subject}: ${message}`, {
    cause: error,
    hint: 'this is a mistake in kiln: please report it with result.json',
  });
}

/** Bytes as `12.5M` or `1.5G`, in powers of 1024. */
export function sizeText(bytes: number): string {
  const mebibytes = bytes / 2 ** 20;
  return mebibytes < 1024 ? `${mebibytes.toFixed(1)}M` : `${(mebibytes / 1024).toFixed(1)}G`;
}

/** The same in a sentence, where few bytes are counted. */
export function sizeInWords(bytes: number): string {
  return bytes < 2 ** 20 ? `${bytes} bytes` : sizeText(bytes);
}

export function formatPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, key) => {
    if (typeof key === 'number') return `${text}[${key}]`;
    return text === '' ? String(key) : `${text}.${String(key)}`;
  }, '');
}

export function reasonLine(cause: Error): string {
  const { issues } = cause as { readonly issues?: unknown };
  if (!Array.isArray(issues)) return cause.message;
  const [issue] = issues as { readonly path?: readonly PropertyKey[]; readonly message?: string }[];
  if (issue === undefined) return 'it has not the right form';
  const place = formatPath(issue.path ?? []);
  const more = issues.length > 1 ? ` (and ${issues.length - 1} more)` : '';
  return `${place === '' ? '' : `${place}: `}${issue.message ?? 'wrong'}${more}`.slice(0, 500);
}

/** Of an error's cause, its cause and so on, the nearest first. */
export function reasonLines(cause: unknown, most: number): string[] {
  const lines: string[] = [];
  for (let at = cause; at instanceof Error && lines.length < most; at = at.cause) {
    lines.push(reasonLine(at));
  }
  return lines;
}

export function workingDirectoryError(cause?: unknown): KilnError {
  return new KilnError('E_PATH', 'the working directory does not exist any more', {
    hint: 'change to another one: `cd /`',
    cause,
  });
}
