/** Lines that are kept of an output: enough to hold the first error of a parallel make. */
const LINES = 2000;

/** Bytes of one line; a linker's command may have megabytes. */
const LINE_LENGTH = 4096;

/** The last lines of a stream of bytes. */
export class Tail {
  readonly #lines: string[] = [];
  #rest = '';
  readonly #decoder = new TextDecoder();

  push(chunk: Buffer): void {
    const parts = (this.#rest + this.#decoder.decode(chunk, { stream: true })).split('\n');
    this.#rest = (parts.pop() ?? '').slice(0, LINE_LENGTH);
    for (const line of parts) this.#lines.push(line.slice(0, LINE_LENGTH));
    if (this.#lines.length > 2 * LINES) this.#lines.splice(0, this.#lines.length - LINES);
  }

  /** Oldest first, without ends of line. */
  lines(): string[] {
    const all = this.#rest === '' ? this.#lines : [...this.#lines, this.#rest];
    return all.slice(-LINES);
  }
}
