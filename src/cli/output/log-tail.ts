/** The end of a log that a person still sees, bytes: two screens of long lines. */
const SEEN = 16 * 1024;

/** The end of a log that was just shown: lines in it need not be repeated. */
export class LogTail {
  #end = Buffer.alloc(0);

  push(chunk: Buffer | string): void {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk;
    const all = bytes.length >= SEEN ? bytes : Buffer.concat([this.#end, bytes]);
    this.#end = Buffer.from(all.subarray(-SEEN));
  }

  /** Whether it contains all these lines. */
  has(lines: readonly string[]): boolean {
    const text = this.#end.toString('utf8');
    return lines.every((line) => text.includes(line));
  }
}
