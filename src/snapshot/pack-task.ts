/** Packs what a snapshot's stack shows into an archive, as a confined child: all layers are hostile. */
import { writeSync } from 'node:fs';
import type { pack as packType } from 'tar-stream';
import { Budget } from '../artifacts/budget.ts';
import type { SingleTask } from '../host/confine/task.ts';
import { TreePacker } from '../image/archive/pack-tree.ts';

export interface PackInput {
  readonly maxEntries: number;
  /** Of all files, holes included: an archive has room for each byte. */
  readonly maxBytes: number;
}

/** Names that are told of. */
export const MOST_SKIPPED = 1000;

let pack: typeof packType;

export const task: SingleTask = {
  async prepare() {
    ({ pack } = await import('tar-stream'));
  },

  async run(input, { fds, emit }) {
    const { maxBytes: bytes, maxEntries: visited } = input as PackInput;
    const [archive = -1, ...layers] = fds;
    const stream = pack();
    const owners = { users: new Map(), groups: new Map() };
    const packer = new TreePacker(stream, owners, new Budget({ bytes, visited }));
    await Promise.all([
      writeAll(stream as AsyncIterable<unknown> as AsyncIterable<Buffer>, archive),
      packer.pack(layers).then(() => stream.finalize()),
    ]);
    emit({ skipped: packer.skipped.slice(0, MOST_SKIPPED) });
  },
};

async function writeAll(stream: AsyncIterable<Buffer>, to: number): Promise<void> {
  for await (const piece of stream) {
    for (let at = 0; at < piece.length; ) at += writeSync(to, piece, at);
  }
}
