import { constants, fchmodSync, fchownSync, fstatSync, lstatSync, openSync } from 'node:fs';
import { constants as os } from 'node:os';
import { basename, dirname } from 'node:path';
import { closing } from '../calls/descriptor.ts';
import { hasErrno, SyscallError, succeeds } from '../calls/libc.ts';
import { callerMode } from '../process/own-umask.ts';
import {
  AT_FDCWD,
  mkdirat,
  O_PATH,
  openat2,
  RESOLVE_BENEATH,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
} from './at.ts';

/**
 * Opens what a caller names, with the caller's rights. `file`: to read it. `text`: the same, for what errors may quote:
 * a link may come with a checkout, so it leads to nothing outside its folder. `place`: as it is (O_PATH). `folder`: one
 * of results; its last part is no link, since a command or a checkout may have put one there. `made`: the same, made if
 * it is missing, with those above it. `anew`, `more`: a file to be written, for a service whose jobs may write to the
 * folders above it: no part of its path is a link. `anew` makes it if it is missing.
 */
export type HowOpened = 'file' | 'text' | 'place' | 'folder' | 'made' | 'anew' | 'more';

export interface Opener {
  /** The asker closes the descriptor. @throws the system's error; ELOOP where the last part of a folder is a link */
  open(how: HowOpened, path: string): Promise<number>;
}

const FOLDER = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
const PARENT = O_PATH | constants.O_DIRECTORY;
const WRITE = constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY;
const FILE = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/** Not O_TRUNC: who opens a file need not be who writes it. */
const WRITTEN = {
  anew: { flags: WRITE | constants.O_CREAT, mode: 0o666, resolve: RESOLVE_NO_SYMLINKS },
  more: { flags: WRITE | constants.O_APPEND, resolve: RESOLVE_NO_SYMLINKS },
} as const;

const NEAR = { flags: FILE, resolve: RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS } as const;

/** A descriptor of the caller's own, as a shell writes `<(command)`: no checkout can have put it there. */
const OPEN_ALREADY = /^\/(?:dev\/(?:stdin$|fd\/)|proc\/self\/fd\/)/;

/** As open_text() of src/client/kiln.c. */
function openText(path: string): number {
  if (OPEN_ALREADY.test(path)) return openSync(path, FILE);
  using folder = closing(openSync(dirname(path), PARENT));
  return openat2(folder.fd, basename(path), NEAR);
}

/** S_ISGID: what is made in such a folder gets it, and its group. */
const SET_GROUP = 0o2000;

/**
 * A process that serves nobody but its caller opens itself what a client opens elsewhere: as open_file() of
 * src/client/kiln.c.
 * @param owner whose the folders are that are made
 */
export function ownOpener(owner: { readonly uid: number; readonly gid: number }): Opener {
  const folder = (path: string, flags: number): number => {
    try {
      return openSync(path, flags);
    } catch (error) {
      if (!hasErrno(error, 'ENOENT')) throw error;
    }
    const name = path.slice(path.lastIndexOf('/') + 1);
    const above = path.slice(0, path.length - name.length).replace(/(?<=.)\/+$/s, '');
    using parent = closing(folder(above || '.', PARENT));
    if (succeeds(['EEXIST'], () => mkdirat(parent.fd, name, 0o700))) {
      using made = closing(openat2(parent.fd, name, { flags: FOLDER }));
      fchownSync(made.fd, owner.uid, owner.gid);
      fchmodSync(made.fd, callerMode(0o777) | (fstatSync(made.fd).mode & SET_GROUP));
    }
    return openat2(parent.fd, name, { flags: flags | constants.O_NOFOLLOW });
  };
  const opened = (how: HowOpened, path: string): number => {
    if (how === 'text') return openText(path);
    if (how === 'file' || how === 'place') return openSync(path, how === 'file' ? FILE : O_PATH);
    if (how === 'anew' || how === 'more') return openat2(AT_FDCWD, path, WRITTEN[how]);
    const plain = path.replace(/(?<=.)(?:\/\.?)+$/s, '');
    try {
      return how === 'made' ? folder(plain, FOLDER) : openSync(plain, FOLDER);
    } catch (error) {
      const found = lstatSync(plain, { throwIfNoEntry: false });
      if (found?.isSymbolicLink() !== true) throw error;
      throw new SyscallError('open', os.errno.ELOOP, path);
    }
  };
  return { open: async (how, path) => opened(how, path) };
}
