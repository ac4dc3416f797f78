import { type BigIntStats, closeSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { type Owner, resultDirectoryError } from '../../../artifacts/destination.ts';
import { KilnError } from '../../../errors.ts';
import { attempt } from '../../../host/calls/libc.ts';
import { sizeInWords } from '../../../host/calls/system-error.ts';
import { type HeldLock, tryLock } from '../../../host/files/flock.ts';
import { Folder, makeDirectory } from '../../../host/files/folder.ts';
import type { HeldPath } from '../../../host/files/held.ts';
import type { PhaseEvent } from '../../run/timeline.ts';
import { PROVENANCE_FILES } from '../provenance/write.ts';
import type { LogName } from './report.ts';

/** Bytes of one log; the rest is compressed. */
const LOG_LIMIT = 512 * 2 ** 20;

/** Bytes of the compressed rest: endless output must not fill the host's disk. */
const REST_LIMIT = 512 * 2 ** 20;

/** Bytes that are compressed at once, in a millisecond or two. */
const REST_BLOCK = 256 * 1024;

const STALE = [
  ...['result.json', 'report.html', 'junit.xml', 'gl-code-quality-report.json'],
  ...['lock.json', 'buildroot_lock.json', 'installed_pkgs.log'],
  ...['build.log.rest.gz', 'root.log.rest.gz'],
  ...PROVENANCE_FILES,
];

function isHalfWritten(name: string): boolean {
  const of = /^\.(.+)\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.exec(name)?.[1];
  return of !== undefined && STALE.includes(of);
}

const LOGS = ['build.log', 'root.log', 'state.log'] as const;

/**
 * Whether an entry of a directory of sources is of results: of the result directory or, where the two are one, of the
 * files that builds leave there.
 */
export function resultsIn(resultDirectory: HeldPath, sources: string) {
  const [results, directory] = [resultDirectory, sources].map((path) =>
    statSync(path, { bigint: true }),
  );
  const isOf = (stats: BigIntStats | undefined) =>
    results?.dev === stats?.dev && results?.ino === stats?.ino;
  if (!isOf(directory)) return (_path: string, stats: BigIntStats) => isOf(stats);
  const own: readonly string[] = [...LOGS, 'hw_info.log', LOCK, ...STALE];
  return (path: string) => own.includes(path) || (path.endsWith('.rpm') && !path.includes('/'));
}

/** Not the directory itself, which others may open: whoever can, could lock it. */
export const LOCK = '.kiln.lock';

/**
 * Makes a result directory, and keeps other builds out of it: their files would be mixed.
 * @throws KilnError E_RESULTDIR_BUSY, E_RESULTDIR
 */
export async function lockResults(directory: HeldPath, owner: Owner): Promise<Disposable> {
  using held = new DisposableStack();
  let lock: HeldLock | undefined;
  try {
    makeDirectory(directory, owner);
    const folder = held.use(Folder.open(directory));
    lock = await tryLock(join(folder.path, LOCK));
    if (lock !== undefined) {
      const { descriptor } = lock;
      held.defer(() => closeSync(descriptor));
      held.defer(() => attempt(() => folder.remove(LOCK)));
    }
  } catch (cause) {
    throw resultDirectoryError(directory, cause);
  }
  if (lock !== undefined) return held.move();
  throw new KilnError('E_RESULTDIR_BUSY', `another build writes to ${directory}`, {
    hint: 'wait for its end, or name another --resultdir',
  });
}

interface OpenLog {
  readonly fd: number;
  written: number;
  rest?: LogRest;
}

/** The rest of a log after its limit: gzip members one after the other, which gzip reads as one file. */
class LogRest {
  readonly #fd: number;
  readonly #limit: number;
  #written = 0;
  #chunks: Buffer[] = [];
  #waiting = 0;

  constructor(fd: number, limit: number) {
    this.#fd = fd;
    this.#limit = limit;
  }

  append(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#waiting += chunk.length;
    if (this.#waiting >= REST_BLOCK) this.#flush();
  }

  #flush(): void {
    const packed = gzipSync(Buffer.concat(this.#chunks), { level: 1 });
    this.#chunks = [];
    this.#waiting = 0;
    if (this.#written > this.#limit) return;
    writeAll(this.#fd, packed);
    this.#written += packed.length;
    if (this.#written <= this.#limit) return;
    const last = `\n[kiln: the log ends here: its rest is ${sizeInWords(this.#limit)} long]\n`;
    writeAll(this.#fd, gzipSync(last));
  }

  close(): void {
    if (this.#waiting > 0) this.#flush();
    closeSync(this.#fd);
  }
}

interface LogLimits {
  readonly plain: number;
  readonly rest: number;
}

/** Of what a user's command may write, for a log and once more for its rest: artifacts, two logs and a report have room. */
const LOG_SHARE = 1 / 8;

/**
 * @param disk bytes that the command may write, and that are copied out for it
 * @param sharers builds of the command, all of whose logs are kept
 */
export function logLimits(disk: number = Number.POSITIVE_INFINITY, sharers = 1): LogLimits {
  const share = Math.floor((disk * LOG_SHARE) / sharers);
  return { plain: Math.min(LOG_LIMIT, share), rest: Math.min(REST_LIMIT, share) };
}

/** Now in the format of mock's logs: `2026-11-24 18:16:54,678`. */
export function logTime(): string {
  return new Date().toISOString().replace('T', ' ').replace('.', ',').replace('Z', '');
}

/** In mock's words. */
const EVENTS = { start: 'Start', finish: 'Finish', fail: 'Failed' };

export class ResultFiles implements Disposable {
  readonly directory: HeldPath;
  readonly #folder: Folder;
  readonly #owner: Owner;
  readonly #logs = new Map<LogName | 'state.log', OpenLog>();
  readonly #limits: LogLimits;

  private constructor(directory: HeldPath, folder: Folder, owner: Owner, limits: LogLimits) {
    this.directory = directory;
    this.#folder = folder;
    this.#owner = owner;
    this.#limits = limits;
  }

  static async open(
    directory: HeldPath,
    owner: Owner,
    limits: LogLimits = logLimits(),
    logs: readonly (LogName | 'state.log')[] = LOGS,
  ): Promise<ResultFiles> {
    let files: ResultFiles | undefined;
    try {
      makeDirectory(directory, owner);
      const folder = Folder.open(directory);
      files = new ResultFiles(directory, folder, owner, limits);
      for (const name of STALE) folder.remove(name);
      for (const name of folder.names()) if (isHalfWritten(name)) folder.remove(name);
      for (const name of logs) {
        folder.remove(name);
        files.#logs.set(name, { fd: folder.create(name, owner), written: 0 });
      }
    } catch (cause) {
      files?.[Symbol.dispose]();
      throw resultDirectoryError(directory, cause);
    }
    return files;
  }

  state(event: PhaseEvent, phase: string): void {
    this.append('state.log', Buffer.from(`${logTime()} - ${EVENTS[event]}: ${phase}\n`));
  }

  write(name: string, content: string): void {
    try {
      this.#folder.replace(name, content, this.#owner);
    } catch (cause) {
      throw resultDirectoryError(this.directory, cause);
    }
  }

  append(name: LogName | 'state.log', chunk: Buffer): void {
    const log = this.#logs.get(name);
    if (log === undefined) return;
    try {
      if (log.rest !== undefined) {
        log.rest.append(chunk);
        return;
      }
      writeAll(log.fd, chunk);
      log.written += chunk.length;
      if (log.written > this.#limits.plain) log.rest = this.#startRest(name, log.fd);
    } catch (cause) {
      throw resultDirectoryError(this.directory, cause);
    }
  }

  #startRest(name: string, fd: number): LogRest {
    const rest = `${name}.rest.gz`;
    this.#folder.remove(rest);
    const opened = this.#folder.create(rest, this.#owner);
    writeAll(fd, Buffer.from(`\n[kiln: ${name} goes on in ${rest}]\n`));
    return new LogRest(opened, this.#limits.rest);
  }

  [Symbol.dispose](): void {
    for (const { fd, rest } of this.#logs.values()) {
      rest?.close();
      closeSync(fd);
    }
    this.#logs.clear();
    this.#folder[Symbol.dispose]();
  }
}

function writeAll(fd: number, chunk: Buffer): void {
  for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at);
}
