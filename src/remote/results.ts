/** What a command writes on the other machine, on its way back while it is made. */
import { existsSync, lstatSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { awaitedLater } from '../promise.ts';
import { encodeFrame } from '../service/supervisor/frames.ts';
import { Packer } from './pack.ts';
import { PIECE, REMOTE_FRAME } from './wire.ts';

/** How often folders of results are looked through for files that are whole, milliseconds. */
const LOOK_EVERY = 2000;
/** A file that nobody has written to for so long is on its way, milliseconds; at the end all are. */
const SETTLED = 2000;

/** Sends bytes in pieces, and waits while there is no room. */
export async function send(output: Writable, kind: number, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; at += PIECE) {
    const more = output.write(encodeFrame(kind, bytes.subarray(at, at + PIECE)));
    if (more || output.destroyed) continue;
    await new Promise<void>((resolve) => {
      const go = () => {
        output.off('drain', go).off('close', go);
        resolve();
      };
      output.on('drain', go).on('close', go);
    });
  }
}

/** The folders of results, on their way while they are filled. */
export class Results {
  readonly #names: readonly string[];
  readonly #folder: string;
  readonly #packer = new Packer();
  readonly #over: Promise<void>;
  /** When each file was written that is on its way already, and how large it was. */
  readonly #sent = new Map<string, string>();
  #looking: Promise<void> = Promise.resolve();

  constructor(names: readonly string[], folder: string, output: Writable) {
    this.#names = names;
    this.#folder = folder;
    const pass = async () => {
      for await (const chunk of this.#packer.stream as AsyncIterable<Buffer>) {
        await send(output, REMOTE_FRAME.archive, chunk);
      }
    };
    this.#over = awaitedLater(pass());
  }

  /** Looks for files from time to time. */
  look(): Disposable {
    const timer = setInterval(() => {
      this.#looking = awaitedLater(this.#looking.then(() => this.#take(SETTLED)));
    }, LOOK_EVERY);
    return { [Symbol.dispose]: () => clearInterval(timer) };
  }

  /** Sends what has not been sent. */
  async finish(): Promise<void> {
    await this.#looking;
    await this.#take(0);
    this.#packer.end();
    await this.#over;
  }

  async #take(settled: number): Promise<void> {
    for (const name of this.#names) await this.#takeFolder(name, settled);
  }

  async #takeFolder(name: string, settled: number): Promise<void> {
    const path = join(this.#folder, name);
    if (!existsSync(path)) return;
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      const [from, to] = [join(path, entry.name), `${name}/${entry.name}`];
      if (entry.isDirectory()) {
        if (settled === 0) await this.#packer.emptyFolder(from, to);
        await this.#takeFolder(to, settled);
        continue;
      }
      const stats = statOf(from);
      if (stats === undefined || Date.now() - stats.mtimeMs < settled) continue;
      const state = `${stats.mtimeMs} ${stats.size} ${stats.ino}`;
      if (this.#sent.get(to) === state) continue;
      this.#sent.set(to, state);
      await this.#packer.entry(from, to).catch((error) => {
        // It is gone already, or grows: the end takes what is there then.
        this.#sent.delete(to);
        if (settled === 0) throw error;
      });
    }
  }
}

function statOf(path: string) {
  try {
    return lstatSync(path);
  } catch {
    return undefined;
  }
}
