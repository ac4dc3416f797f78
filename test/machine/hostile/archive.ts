/** tar archives as no machine's stage 0 packs them. Sources: tar(5), pax(1). */

export interface Entry {
  readonly name?: string;
  /** As the header has it: `0` a file, `1` a hard link, `2` a symbolic link, `5` a folder, `x` a pax header. */
  readonly type?: string;
  readonly mode?: number;
  readonly link?: string;
  readonly content?: Buffer | string;
  /** What the header says of the size, where that is not true. */
  readonly size?: number;
  /** Twelve bytes in the place of the size. */
  readonly rawSize?: Buffer;
  readonly pax?: Readonly<Record<string, string>>;
}

const BLOCK = 512;

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & (BLOCK - 1))]);
}

function block({ name = '', type = '0', mode = 0o644, link = '', rawSize }: Entry, size: number) {
  const header = Buffer.alloc(BLOCK);
  header.write(name, 0, 100, 'latin1');
  for (const [at, value, digits] of [
    [100, mode, 7],
    [108, 0, 7],
    [116, 0, 7],
    [124, size, 11],
    [136, 0, 11],
  ] as const) {
    header.write(value.toString(8).padStart(digits, '0'), at, 'latin1');
  }
  rawSize?.copy(header, 124);
  header.write(' '.repeat(8), 148);
  header.write(type, 156);
  header.write(link, 157, 100, 'latin1');
  header.write('ustar\u000000', 257, 'latin1');
  const sum = header.reduce((all, byte) => all + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\u0000 `, 148, 'latin1');
  return header;
}

function record(key: string, value: string): string {
  const rest = Buffer.byteLength(` ${key}=${value}\n`);
  let length = rest + String(rest).length;
  if (String(length).length > String(rest).length) length++;
  return `${length} ${key}=${value}\n`;
}

export function tar(entries: readonly Entry[], end = true): Buffer {
  const parts = entries.flatMap((entry) => {
    const content = Buffer.from(entry.content ?? '');
    const records = Object.entries(entry.pax ?? {}).map(([key, value]) => record(key, value));
    const pax = Buffer.from(records.join(''));
    const before =
      records.length === 0 ? [] : [block({ name: 'pax', type: 'x' }, pax.length), padded(pax)];
    return [...before, block(entry, entry.size ?? content.length), padded(content)];
  });
  return Buffer.concat([...parts, Buffer.alloc(end ? 2 * BLOCK : 0)]);
}
