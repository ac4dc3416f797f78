import { execFileSync } from 'node:child_process';
import { closeSync, lstatSync, mkdirSync, openSync, readdirSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { pack } from 'tar-stream';
import { KilnError } from '../../src/errors.ts';
import { runConfined } from '../../src/host/confine/run.ts';
import { type CpioEntry, CpioParser } from '../../src/packages/rpm/payload/cpio.ts';
import { PATIENCE } from '../support/busybox-state.ts';

/** Parts of names that lead somewhere else, or end early. */
const part = fc.oneof(
  fc.constantFrom('..', '.', '', 'a', 'b', 'link', 'TRAILER!!!', '.wh.a', '.wh..wh..opq', 'canary'),
  fc.string({ maxLength: 12 }),
  fc.constantFrom('\n', '\\', '~', '\x7f', 'x'.repeat(256), 'proc', 'self', 'root'),
);
const name = fc
  .tuple(
    fc.constantFrom('', '/', './', '../../', '//'),
    fc.array(part, { minLength: 1, maxLength: 6 }),
  )
  .map(([front, parts]) => (front + parts.join('/')).replaceAll('\0', ''));

/** A newc entry as cpio(5) has it. */
function entry(file: string, data: Buffer): Buffer {
  const bytes = Buffer.from(`${file}\0`);
  const fields = [1, 0o100644, 0, 0, 1, 0, data.length, 0, 0, 0, 0, bytes.length, 0];
  const head = `070701${fields.map((it) => it.toString(16).padStart(8, '0')).join('')}`;
  const padded = (buffer: Buffer, before = 0) =>
    Buffer.concat([buffer, Buffer.alloc((4 - ((before + buffer.length) % 4)) % 4)]);
  return Buffer.concat([Buffer.from(head), padded(bytes, head.length), padded(data)]);
}

test('a cpio archive, cut anywhere, gives its names and data or is refused', (t) => {
  const file = fc.tuple(name, fc.uint8Array({ maxLength: 40 }));
  fc.assert(
    fc.property(fc.array(file, { maxLength: 8 }), fc.array(fc.nat(4000)), (files, cuts) => {
      const entries = files.map(([it, data]) => entry(it, Buffer.from(data)));
      const archive = Buffer.concat([...entries, entry('TRAILER!!!', Buffer.alloc(0))]);
      const seen: [string, number[]][] = [];
      const parser = new CpioParser({
        begin(it: CpioEntry) {
          if (it.kind !== 'named') throw new Error('not named');
          seen.push([it.name.toString(), []]);
          return it.size;
        },
        data: (piece) => void seen.at(-1)?.[1].push(...piece),
        end: () => undefined,
      });
      const places = [...new Set([0, ...cuts, archive.length])]
        .filter((at) => at <= archive.length)
        .sort((a, b) => a - b);
      try {
        for (const [i, at] of places.entries()) parser.push(archive.subarray(at, places[i + 1]));
        parser.finish();
      } catch (error) {
        return error instanceof KilnError && files.some(([it]) => it === '' || it.length > 4000);
      }
      // What has the trailer's name is the trailer.
      const last = files.findIndex(([it]) => it === 'TRAILER!!!');
      const wanted = (last === -1 ? files : files.slice(0, last)).map(([it, data]) => [
        it,
        [...data],
      ]);
      return JSON.stringify(seen) === JSON.stringify(wanted);
    }),
    { numRuns: 1000 },
  );
  t.pass();
});

type Kind = 'file' | 'directory' | 'symlink' | 'link';

/** Everything below, by kind, mode and times. */
function stock(directory: string): string {
  return execFileSync('find', [directory, '-printf', '%P %y %m %U %s %T@ %l\\n'], {
    encoding: 'utf8',
  });
}

test('no name, link or whiteout of a tar archive leads out of the image', async (t) => {
  t.timeout(240_000 * PATIENCE);
  const directory = await mkdtemp(join(tmpdir(), 'kiln-fuzz-names-'));
  t.teardown(() => rm(directory, { recursive: true }));
  mkdirSync(join(directory, 'canary/inner'), { recursive: true });
  writeFileSync(join(directory, 'canary/file'), 'nobody writes here\n');
  const before = stock(join(directory, 'canary'));
  const item = fc.record({
    kind: fc.constantFrom<Kind>('file', 'directory', 'symlink', 'link'),
    name,
    target: name,
  });
  let unpacked = 0;
  let run = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(item, { minLength: 1, maxLength: 12 }), async (items) => {
      const archive = pack();
      for (const { kind, name: file, target } of items) {
        const linkname = kind === 'file' || kind === 'directory' ? {} : { linkname: target || 'a' };
        archive.entry(
          { name: file || 'a', type: kind, mode: 0o4777, ...linkname },
          kind === 'file' ? 'x' : '',
        );
      }
      archive.finalize();
      const tar = join(directory, 'archive.tar');
      const chunks: Buffer[] = [];
      for await (const chunk of archive) chunks.push(Buffer.from(chunk as Uint8Array));
      writeFileSync(tar, Buffer.concat(chunks));
      const destination = join(directory, `to-${run++}`);
      mkdirSync(destination);
      const fd = openSync(tar, 'r');
      try {
        const task = runConfined({
          ...{ task: 'image-unpack', input: { maxBytes: 1e6, maxEntries: 1000 } },
          ...{ destination, fds: [fd], validate: (value: unknown) => value },
        });
        for await (const _ of task) unpacked++;
      } catch (error) {
        if (!(error instanceof KilnError) || !/^E_(ARCHIVE|IMAGE|OCI)/.test(error.code))
          throw error;
      } finally {
        closeSync(fd);
      }
      // Nothing beside it, and it is a folder still.
      const beside = readdirSync(directory).filter(
        (it) => !/^(canary|archive\.tar|to-\d+)$/.test(it),
      );
      const held = lstatSync(destination).isDirectory() && beside.length === 0;
      await rm(destination, { recursive: true });
      return held && stock(join(directory, 'canary')) === before;
    }),
    // One that is taken for sure: chance alone may make 25 that are all refused.
    {
      numRuns: 25,
      examples: [
        [[{ kind: 'file', name: 'a', target: 'a' }]],
        [[{ kind: 'file', name: `${'x'.repeat(256)}/.wh.a`, target: 'a' }]],
        [
          [
            { kind: 'directory', name: 'proc/a', target: 'a' },
            { kind: 'file', name: 'proc', target: 'a' },
          ],
        ],
        [[{ kind: 'link', name: 'b/a', target: 'b' }]],
      ],
    },
  );
  t.true(unpacked > 0, String(unpacked));
});
