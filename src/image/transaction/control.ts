import { chmodSync, copyFileSync, linkSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { hasErrno } from '../../host/calls/libc.ts';
import { encodeName } from '../../packages/rpm/filename.ts';
import { CONTROL } from './transaction-sandbox.ts';

/**
 * The folder with scripts and package headers for a transaction's sandbox. The sandbox reads it while this
 * process writes to it.
 */
export class ControlDirectory {
  /** On the host. */
  readonly path: string;
  #serial = 0;

  /** Makes the folder `path`. */
  constructor(path: string) {
    mkdirSync(path);
    chmodSync(path, 0o755);
    this.path = path;
  }

  /** Writes a script; returns its path in the sandbox. Lone surrogates become the bytes they stand for. */
  addScript(text: string): string {
    const name = `script-${++this.#serial}`;
    writeFileSync(join(this.path, name), encodeName(text), { mode: 0o644 });
    return `${CONTROL}/${name}`;
  }

  /** Links or copies a file of the host into the folder; returns its path in the sandbox. */
  addFile(source: string): string {
    const name = `file-${++this.#serial}.rpm`;
    const target = join(this.path, name);
    try {
      linkSync(source, target);
    } catch (error) {
      // Another file system, or a file with the most links it can have.
      if (!hasErrno(error, 'EXDEV', 'EMLINK', 'EPERM')) throw error;
      copyFileSync(source, target);
    }
    return `${CONTROL}/${name}`;
  }
}
