import { closeSync, writeSync } from 'node:fs';
import { resolve } from 'node:path';
import { type Owner, unusableResultDirectory } from '../artifacts/destination.ts';
import { Folder, makeDirectory } from '../kernel/folder.ts';
import { CHECKSUMS_FILE } from './provenance/checksums.ts';
import { ENVELOPE_FILE } from './provenance/envelope.ts';
import { SBOM_FILE } from './provenance/spdx.ts';
import { STATEMENT_FILE } from './provenance/statement.ts';
import type { BuildPhase, LogName } from './report.ts';

/** Bytes of one log; a build that talks without end must not fill the host's disk. */
const LOG_LIMIT = 512 * 2 ** 20;

/** Files of an earlier build in the same directory that would belie this one. */
const STALE = [
  ...[
    'result.json',
    'report.html',
    'junit.xml',
    'gl-code-quality-report.json',
    'lock.json',
    'buildroot_lock.json',
    'installed_pkgs.log',
  ],
  ...[SBOM_FILE, STATEMENT_FILE, ENVELOPE_FILE, CHECKSUMS_FILE],
];

/** What a build that was killed had not put in its place yet; as Folder.replace() names it. */
function isHalfWritten(name: string): boolean {
  const of = /^\.(.+)\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.exec(name)?.[1];
  return of !== undefined && STALE.includes(of);
}

const LOGS = ['build.log', 'root.log', 'state.log'] as const;

interface OpenLog {
  readonly fd: number;
  written: number;
}

/**
 * The logs of a result directory, by mock's names. They are written while the build goes on, so
 * that one can look on; everything else appears whole.
 */
export class ResultFiles implements Disposable {
  /** Absolute. */
  readonly directory: string;
  readonly #folder: Folder;
  readonly #owner: Owner;
  readonly #logs = new Map<LogName | 'state.log', OpenLog>();

  private constructor(directory: string, folder: Folder, owner: Owner) {
    this.directory = directory;
    this.#folder = folder;
    this.#owner = owner;
  }

  /** Makes the directory if missing, and empty logs in it. @throws KilnError E_RESULTDIR */
  static async open(
    path: string,
    owner: Owner,
    logs: readonly (LogName | 'state.log')[] = LOGS,
  ): Promise<ResultFiles> {
    const directory = resolve(path);
    let files: ResultFiles | undefined;
    try {
      await makeDirectory(directory, owner);
      const folder = Folder.open(directory);
      files = new ResultFiles(directory, folder, owner);
      for (const name of STALE) folder.remove(name);
      for (const name of folder.names()) if (isHalfWritten(name)) folder.remove(name);
      for (const name of logs) {
        folder.remove(name);
        files.#logs.set(name, { fd: folder.create(name, owner), written: 0 });
      }
    } catch (cause) {
      files?.[Symbol.dispose]();
      throw unusableResultDirectory(directory, cause);
    }
    return files;
  }

  /** @throws KilnError E_RESULTDIR when there is no room any more. */
  append(name: LogName, chunk: Buffer): void {
    this.#append(name, chunk);
  }

  /** A line of state.log: `2026-11-24 18:16:54,678 - Start: build`. */
  state(event: 'Start' | 'Finish' | 'Failed', phase: BuildPhase): void {
    const time = new Date().toISOString().replace('T', ' ').replace('.', ',').replace('Z', '');
    this.#append('state.log', Buffer.from(`${time} - ${event}: ${phase}\n`));
  }

  /** Puts a whole file into the directory, in place of what has its name. @throws E_RESULTDIR */
  write(name: string, content: string): void {
    try {
      this.#folder.replace(name, content, this.#owner);
    } catch (cause) {
      throw unusableResultDirectory(this.directory, cause);
    }
  }

  #append(name: LogName | 'state.log', chunk: Buffer): void {
    const log = this.#logs.get(name);
    if (log === undefined || log.written > LOG_LIMIT) return;
    try {
      writeAll(log.fd, chunk);
      log.written += chunk.length;
      if (log.written > LOG_LIMIT) {
        writeAll(
          log.fd,
          Buffer.from(`\n[kiln: ${name} ends here: it is ${LOG_LIMIT} bytes long]\n`),
        );
      }
    } catch (cause) {
      throw unusableResultDirectory(this.directory, cause);
    }
  }

  [Symbol.dispose](): void {
    for (const { fd } of this.#logs.values()) closeSync(fd);
    this.#logs.clear();
    this.#folder[Symbol.dispose]();
  }
}

function writeAll(fd: number, chunk: Buffer): void {
  for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at);
}
