/**
 * Events in the state: for each uid a file of lines, and the one before it. So nobody's events push out those of others,
 * and a user's are found without a look at others'. Any process of kiln's appends; a line is one write. The same goes to
 * kilnd.log, for whoever reads what else kilnd says there.
 */
import {
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs';
import { closing } from '../host/calls/descriptor.ts';
import { attempt, unlessErrno } from '../host/calls/libc.ts';
import { tryCall } from '../host/calls/system-call.ts';
import { ownEnvironment } from '../host/process/own-process.ts';
import type { StateRoot } from '../host/state/paths.ts';
import { eventText, type KilnEvent } from './event.ts';
import { currentFile, eventsFolder, logFile, previousFile, previousLog } from './files.ts';
import { sendToJournal } from './journal.ts';
import { keepTotals } from './totals.ts';

/** Bytes of a file; each uid has two. */
const FILE_BYTES = 4 << 20;

export interface EventLogOptions {
  readonly bytes?: number;
  /** The journal's socket. */
  readonly journal?: string;
}

/** A command goes on where its events cannot be written: on a full disk, say. */
export function writeEvent(
  paths: StateRoot,
  event: KilnEvent,
  { bytes = FILE_BYTES, journal }: EventLogOptions = {},
): void {
  const line = JSON.stringify(event);
  attempt(() => append(paths, event.uid, line, bytes));
  attempt(() => log(paths, ownEnvironment.KILN_LOG === 'json' ? line : eventText(event), bytes));
  attempt(() => sendToJournal(event, journal));
}

/** What kilnd writes to its error output goes to the file before until it ends. */
function log(paths: StateRoot, line: string, bytes: number): void {
  const path = logFile(paths);
  using file = closing(openSync(path, APPEND, 0o600));
  writeSync(file.fd, `${line}\n`);
  if (fstatSync(file.fd).size >= bytes) renameSync(path, previousLog(paths));
}

const APPEND = constants.O_RDWR | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW;

function append(paths: StateRoot, uid: number, line: string, bytes: number): void {
  let fd = open(paths, uid);
  try {
    let { size } = fstatSync(fd);
    if (size >= bytes && rotate(paths, uid, fd)) {
      closeSync(fd);
      fd = open(paths, uid);
      size = fstatSync(fd).size;
    }
    writeSync(fd, `${isTorn(fd, size) ? '\n' : ''}${line}\n`);
  } finally {
    closeSync(fd);
  }
}

function open(paths: StateRoot, uid: number): number {
  const path = currentFile(paths, uid);
  const opened = attempt(() => openSync(path, APPEND, 0o600));
  if (opened !== undefined) return opened;
  // Not the state itself: where that is missing, there is nothing to tell of yet.
  unlessErrno(['EEXIST'], () => mkdirSync(eventsFolder(paths), { mode: 0o700 }));
  return openSync(path, APPEND, 0o600);
}

/** Whether whoever wrote last was killed meanwhile. */
function isTorn(fd: number, size: number): boolean {
  if (size === 0) return false;
  const last = Buffer.alloc(1);
  return readSync(fd, last, 0, 1, size - 1) === 1 && last[0] !== 0x0a;
}

const LOCK_EX = 2;
const LOCK_NB = 4;

/** False where another process does it: one more line fits meanwhile. */
function rotate(paths: StateRoot, uid: number, fd: number): boolean {
  if (tryCall('flock', fd, LOCK_EX | LOCK_NB) !== 0) return false;
  const path = currentFile(paths, uid);
  // Who had the lock before has rotated it already: the name is another file's then.
  if (statSync(path, { throwIfNoEntry: false })?.ino === fstatSync(fd).ino) {
    attempt(() => keepTotals(paths, uid));
    renameSync(path, previousFile(paths, uid));
  }
  return true;
}
