import { closeSync, constants, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { StringDecoder } from 'node:string_decoder';
import { attempt } from '../calls/libc.ts';

/** Bytes that are read at a time. */
const PIECE = 1 << 20;

/** A file that somebody appends to. */
export class Tail implements Disposable {
  readonly #path: string;
  #fd: number | undefined;
  #at = 0;
  #rest = '';
  #decoder = new StringDecoder('utf8');

  constructor(path: string) {
    this.#path = path;
    this.#open();
  }

  /** Of the file that is open now. */
  get ino(): number | undefined {
    return this.#fd === undefined ? undefined : fstatSync(this.#fd).ino;
  }

  #open(): void {
    this.#fd = attempt(() => openSync(this.#path, constants.O_RDONLY | constants.O_NOFOLLOW));
  }

  /** Leaves out what is there. @returns the bytes of that */
  skip(): number {
    if (this.#fd !== undefined) this.#at = fstatSync(this.#fd).size;
    return this.#at;
  }

  /** Whole lines that have come since; another file of the same name is begun once the one before is read. */
  *lines(): Generator<string> {
    for (;;) {
      yield* this.#more();
      const { ino } = attempt(() => statSync(this.#path)) ?? {};
      if (ino === undefined || this.ino === ino) return;
      // What was written between the last look and the change of names.
      yield* this.#more();
      this[Symbol.dispose]();
      this.#open();
      if (this.#fd === undefined) return;
    }
  }

  *#more(): Generator<string> {
    const bytes = Buffer.alloc(PIECE);
    while (this.#fd !== undefined) {
      const read = readSync(this.#fd, bytes, 0, PIECE, this.#at);
      if (read === 0) return;
      this.#at += read;
      const lines = `${this.#rest}${this.#decoder.write(bytes.subarray(0, read))}`.split('\n');
      this.#rest = lines.pop() ?? '';
      yield* lines;
    }
  }

  [Symbol.dispose](): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
    this.#at = 0;
    this.#rest = '';
    this.#decoder = new StringDecoder('utf8');
  }
}
