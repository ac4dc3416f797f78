/** What the other machine sends stays in its folder, whatever it says. */
import {
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import test, { type ExecutionContext } from 'ava';
import { type Header, pack } from 'tar-stream';
import { unpacker } from '../../src/remote/unpack.ts';
import { parseAddress } from '../../src/remote/wire.ts';

type Entry = Partial<Header> & { readonly name: string; readonly content?: string | Buffer };

/** Unpacks entries into a folder with another one beside it; what was said of it. */
async function unpack(
  t: ExecutionContext,
  entries: readonly Entry[],
  prepare: (folder: string) => void = () => undefined,
  only?: string,
): Promise<{ readonly top: string; readonly error: Error | undefined }> {
  const top = mkdtempSync(join(tmpdir(), 'kiln-unpack-'));
  t.teardown(() => rmSync(top, { recursive: true }));
  const folder = join(top, 'out');
  mkdirSync(folder);
  mkdirSync(join(top, 'outside'));
  prepare(folder);
  const root = openSync(folder, 'r');
  const archive = pack();
  for (const { content = '', ...header } of entries) archive.entry(header, content);
  archive.finalize();
  const { stream, over } = unpacker((first) =>
    first === 'out0' ? { folder: root, only } : undefined,
  );
  let error: Error | undefined;
  const end = over.catch((reason: Error) => {
    error = reason;
  });
  for await (const chunk of archive) if (!stream.destroyed) stream.write(chunk);
  if (!stream.destroyed) stream.end();
  await end;
  closeSync(root);
  return { top, error };
}

test('files, folders and links arrive unchanged, without set-id bits', async (t) => {
  const { top, error } = await unpack(
    t,
    [
      { name: 'out0/d', type: 'directory' },
      { name: 'out0/d/f', content: 'made\n', mode: 0o6755 },
      { name: 'out0/l', type: 'symlink', linkname: '/etc/passwd' },
      { name: 'out0/old', content: 'new\n' },
    ],
    (folder) => writeFileSync(join(folder, 'old'), 'old\n'),
  );
  t.is(error, undefined);
  t.is(readFileSync(join(top, 'out/d/f'), 'utf8'), 'made\n');
  t.is(statSync(join(top, 'out/d/f')).mode & 0o7777, 0o755);
  t.true(lstatSync(join(top, 'out/l')).isSymbolicLink());
  t.is(readFileSync(join(top, 'out/old'), 'utf8'), 'new\n');
});

test('long zeros become holes, and every byte is unchanged', async (t) => {
  const bytes = Buffer.alloc(30 << 20);
  for (const at of [0, 5_000_001, (20 << 20) - 1]) bytes.write('not zero', at);
  const zeros = Buffer.alloc(10 << 20);
  const { top, error } = await unpack(t, [
    { name: 'out0/some', content: bytes },
    { name: 'out0/all', content: zeros },
  ]);
  t.is(error, undefined);
  t.true(readFileSync(join(top, 'out/some')).equals(bytes));
  t.true(readFileSync(join(top, 'out/all')).equals(zeros));
  const blocks = ['some', 'all'].map((name) => statSync(join(top, 'out', name)).blocks * 512);
  t.true(blocks[0]! < 1 << 20 && blocks[1]! < 1 << 16, String(blocks));
});

for (const [title, entries] of [
  ['a name that leads out', [{ name: 'out0/../outside/f' }]],
  ['an absolute name', [{ name: '/tmp/f' }]],
  ['a folder that nobody named', [{ name: 'out1/f' }]],
  ['a file in place of the folder', [{ name: 'out0' }]],
  [
    'a file through a link of its own',
    [{ name: 'out0/l', type: 'symlink', linkname: '../outside' }, { name: 'out0/l/f' }],
  ],
  ['a hard link', [{ name: 'out0/h', type: 'link', linkname: '/etc/passwd' }]],
  ['a device', [{ name: 'out0/n', type: 'character-device', devmajor: 1, devminor: 3 }]],
] as readonly (readonly [string, readonly Entry[]])[]) {
  test(`refused: ${title}`, async (t) => {
    const { top, error } = await unpack(t, entries);
    t.truthy(error);
    t.false(existsSync(join(top, 'outside/f')));
    t.false(existsSync(join(top, 'out/h')));
    t.false(existsSync(join(top, 'out/n')));
  });
}

test('a file that arrives incomplete leaves nothing', async (t) => {
  const top = mkdtempSync(join(tmpdir(), 'kiln-unpack-'));
  t.teardown(() => rmSync(top, { recursive: true }));
  const root = openSync(top, 'r');
  const { stream, over } = unpacker(() => ({ folder: root }));
  const archive = pack();
  archive.entry({ name: 'out0/f' }, Buffer.alloc(1 << 20, 'x'));
  archive.finalize();
  const bytes = await buffer(archive);
  stream.end(bytes.subarray(0, 100_000));
  await t.throwsAsync(over, { code: 'E_REMOTE_ARCHIVE' });
  t.deepEqual(readdirSync(top), []);
  closeSync(root);
});

test('an existing link is replaced, not followed', async (t) => {
  const { top, error } = await unpack(t, [{ name: 'out0/f', content: 'new\n' }], (folder) => {
    writeFileSync(join(folder, '../outside/f'), 'theirs\n');
    symlinkSync('../outside/f', join(folder, 'f'));
  });
  t.is(error, undefined);
  t.is(readFileSync(join(top, 'outside/f'), 'utf8'), 'theirs\n');
  t.is(readFileSync(join(top, 'out/f'), 'utf8'), 'new\n');
});

test('addresses of machines are parsed', (t) => {
  t.deepEqual(parseAddress('ssh://me@build.example:2222'), {
    host: 'build.example',
    user: 'me',
    port: '2222',
  });
  t.is(parseAddress('ssh://[::1]').host, '::1');
  for (const wrong of [
    ...['', 'build', 'http://x', 'ssh://', 'ssh://-oProxyCommand=x', 'ssh://-l@x', 'ssh://x/path'],
    ...['ssh://me:word@x', 'ssh://x?y', 'ssh://x:99999', 'ssh://%2Dx'],
  ]) {
    t.throws(() => parseAddress(wrong), { message: /is not the address of a machine/ }, wrong);
  }
});

test('if one file is expected, its folder gets no other', async (t) => {
  const meant = await unpack(t, [{ name: 'out0/img.tar', content: 'it' }], undefined, 'img.tar');
  t.is(meant.error, undefined);
  t.is(readFileSync(join(meant.top, 'out/img.tar'), 'utf8'), 'it');
  for (const name of ['out0/.bashrc', 'out0/.ssh/authorized_keys', 'out0/img.tar2']) {
    const { top, error } = await unpack(t, [{ name, content: 'evil' }], undefined, 'img.tar');
    t.regex(String(error), /E_REMOTE_ARCHIVE|it has/, name);
    t.false(existsSync(join(top, name.replace('out0', 'out'))), name);
  }
});
