import { createHash } from 'node:crypto';
import { lstatSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { ensureEdgePackages } from '../../fixtures/edge-packages/ensure.ts';
import { KilnError } from '../../src/errors.ts';
import { importImage } from '../../src/image/archive/import.ts';
import type { LeasedImage } from '../../src/image/store/images.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { debianRepository, type ImageState, imageState } from './image-state.ts';
import { differences, snapshotTree } from './tree-snapshot.ts';

let state: ImageState;
let image: LeasedImage;

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  state = await imageState();
  const edge = await ensureEdgePackages();
  // Capabilities, hard links, links, set-id bits, owners, and names that are no UTF-8.
  const recipe = await state.recipe(
    'odd',
    `packages: [base-files, base-passwd, edge-caps, edge-links, edge-names, edge-accounts]
scriptlets: { mode: none }
users: [{ name: build, uid: 1000 }]
user: build
workdir: /tmp
environment: { GREETING: 'hello = "you"' }`,
    [await debianRepository(), { id: 'edge', directory: edge.directory, key: edge.keyPath }],
  );
  image = await state.open(recipe);
});
test.after.always(() => state[Symbol.asyncDispose]());

const kiln = async (...args: string[]): Promise<string> => {
  const { exitCode, stdout, stderr } = await state.kiln(['image', ...args]);
  if (exitCode !== 0) throw new Error(String(stderr));
  return String(stdout);
};

const place = async (name: string): Promise<string> => {
  const path = join(state.directory, name);
  await mkdir(path);
  return path;
};

test.serial('GNU tar unpacks an export into the same tree', async (t) => {
  t.timeout(120_000 * PATIENCE);
  for (const name of ['odd.tar', 'odd.tar.gz', 'odd.tar.zst']) {
    const archive = join(state.directory, name);
    await kiln('export', image.manifest.id, '-o', archive);
    const root = await place(`${name}-unpacked`);
    await execa('tar', [
      '--numeric-owner',
      '--xattrs',
      '--xattrs-include=*',
      '-xpaf',
      archive,
      '-C',
      root,
    ]);
    t.deepEqual([...differences(snapshotTree(image.tree), snapshotTree(root))], [], name);
  }
  const inodes = async (tree: string) => {
    const options = { cwd: tree, encoding: 'buffer' as const };
    const { stdout } = await execa('find', ['usr/share/edge', '-printf', '%i %P\\0'], options);
    const lines = Buffer.from(stdout).toString('latin1').split('\0');
    const sorted = lines
      .map((line) => line.split(/ (.*)/s))
      .sort((x, y) => (x[1]! < y[1]! ? -1 : 1));
    const numbers = sorted.map(([inode]) => inode);
    return numbers.map((inode) => numbers.indexOf(inode));
  };
  t.deepEqual(await inodes(join(state.directory, 'odd.tar-unpacked')), await inodes(image.tree));
});

test.serial('bsdtar lists the same archive from standard output', async (t) => {
  const { stdout } = await execa(
    'bash',
    ['-c', '"$KILN" image export "$ID" -o - | bsdtar -tf - | wc -l'],
    {
      env: { ...state.env, KILN: 'bin/kiln', ID: image.manifest.id },
    },
  );
  t.is(Number(stdout), snapshotTree(image.tree).size + 1);
});

test.serial('skopeo reads and copies an exported layout, and kiln reads the copy', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const layout = join(state.directory, 'layout');
  await kiln('export', image.manifest.id, '-o', layout, '--compress', 'none');
  const zstd = join(state.directory, 'layout-zstd');
  await kiln('export', image.manifest.id, '-o', zstd, '--compress', 'zstd');
  const config = JSON.parse(
    (await execa('skopeo', ['inspect', '--config', `oci:${layout}`])).stdout,
  );
  t.is(config.config.User, 'build');
  t.is(config.config.WorkingDir, '/tmp');
  t.deepEqual(config.config.Env, ['GREETING=hello = "you"']);
  t.is(config.architecture, 'amd64');
  const copy = join(state.directory, 'copy');
  // skopeo checks every digest, and compresses the layer.
  await execa('skopeo', ['copy', '--insecure-policy', `oci:${layout}`, `oci:${copy}`]);
  await execa('skopeo', ['copy', '--insecure-policy', `oci:${zstd}`, `dir:${copy}-zstd`]);
  const manifest = JSON.parse(await kiln('import', copy, '--json'));
  // Not as its title says.
  t.is(manifest.name, 'copy');
  t.like(manifest.user, { name: 'build', uid: 1000, home: '/home/build' });
  t.deepEqual(manifest.environment, { GREETING: 'hello = "you"' });
  t.is(manifest.workdir, '/tmp');
  const tree = join(state.engine.paths.images, manifest.id, 'tree');
  t.deepEqual([...differences(snapshotTree(image.tree), snapshotTree(tree))], []);
  const again = JSON.parse(await kiln('import', zstd, '--json', '--name', 'again'));
  const other = join(state.engine.paths.images, again.id, 'tree');
  t.deepEqual([...differences(snapshotTree(image.tree), snapshotTree(other))], []);
});

test.serial('an archive made by GNU tar is imported unchanged', async (t) => {
  const archive = join(state.directory, 'theirs.tar');
  const xattrs = ['--xattrs', '--xattrs-include=*', '--format=pax'];
  await execa('tar', [...xattrs, '-cf', archive, '-C', image.tree, '.']);
  const id = (await kiln('import', archive, '--name', 'theirs')).trim();
  const tree = join(state.engine.paths.images, id, 'tree');
  t.deepEqual([...differences(snapshotTree(image.tree), snapshotTree(tree))], []);
  t.true((await kiln('ls')).includes('theirs'));
  t.is(JSON.parse(await kiln('show', 'theirs')).id, id);
  t.is((await kiln('build', 'theirs')).trim(), id, 'a name is as good as an id');
  t.is((await kiln('rm', 'theirs')).trim(), id);
  t.false((await kiln('ls')).includes('theirs'));
});

test.serial('an archive of many zstd frames is imported whole', async (t) => {
  const archive = join(state.directory, 'frames.tar.zst');
  // Frames of 20 KB: one ends, and others begin, in each piece that is read.
  const script = 'tar -cf - -C "$TREE" . | split -b 20000 --filter "zstd -q" > "$ARCHIVE"';
  const env = { TREE: image.tree, ARCHIVE: archive };
  await execa('bash', ['-o', 'pipefail', '-c', script], { env });
  const id = (await kiln('import', archive, '--name', 'frames')).trim();
  const tree = join(state.engine.paths.images, id, 'tree');
  const { stdout: listed } = await execa('bash', ['-c', 'cd "$TREE" && find . | sort'], { env });
  const { stdout: found } = await execa('bash', ['-c', 'find . | sort'], { cwd: tree });
  t.is(found, listed);
  t.is((await kiln('rm', 'frames')).trim(), id);
});

test.serial('a reader of only the beginning of an archive gets no error', async (t) => {
  const { stdout, stderr } = await execa(
    'bash',
    ['-c', '"$KILN" image export "$ID" -o - | head -c 2; echo " $PIPESTATUS"'],
    {
      env: { ...state.env, KILN: 'bin/kiln', ID: image.manifest.id },
    },
  );
  t.is(stdout, './ 141');
  t.is(stderr, '');
});

test.serial('an export to a standard output that is closed or unread is a failure', async (t) => {
  const env = { ...state.env, KILN: 'bin/kiln', ID: image.manifest.id };
  const script = '"$KILN" image export "$ID" -o - --compress zstd';
  const closed = await execa('bash', ['-c', `${script} >&-`], { env, reject: false });
  t.is(closed.exitCode, 125);
  t.regex(closed.stderr, /standard output cannot be written: Bad file descriptor/);
  // Closed before the first byte of an archive that is small.
  const unread = await execa('bash', ['-c', `{ sleep 0.2; ${script}; echo $? >&2; } | true`], {
    env,
  });
  t.is(unread.stderr, '141');
});

test.serial('a failed export leaves nothing that looks complete', async (t) => {
  const target = join(state.directory, 'no-such-folder', 'x.tar');
  const failed = await state.kiln(['image', 'export', image.manifest.id, '-o', target]);
  t.is(failed.exitCode, 125);
  t.regex(String(failed.stderr), /you cannot use .*x\.tar: .*ENOENT/);
  const folder = await place('occupied');
  await writeFile(join(folder, 'mine'), '');
  const refused = await state.kiln(['image', 'export', image.manifest.id, '-o', folder]);
  t.regex(String(refused.stderr), /is not empty/);
  t.deepEqual(await readdir(folder), ['mine']);
});

/** An OCI layout whose layers are made by shell commands in an empty folder each. */
async function layoutOf(name: string, ...scripts: readonly string[]): Promise<string> {
  const layout = await place(name);
  const blobs = join(layout, 'blobs', 'sha256');
  await mkdir(blobs, { recursive: true });
  const add = async (bytes: Buffer) => {
    const digest = createHash('sha256').update(bytes).digest('hex');
    await writeFile(join(blobs, digest), bytes);
    return { digest: `sha256:${digest}`, size: bytes.length };
  };
  const json = (value: unknown) => add(Buffer.from(JSON.stringify(value)));
  const layers: unknown[] = [];
  for (const [index, script] of scripts.entries()) {
    const folder = await place(`${name}-${index}`);
    await execa('sh', ['-ec', script], { cwd: folder });
    const tar = await execa('tar', ['-C', folder, '-cf', '-', '.'], { encoding: 'buffer' });
    const mediaType = 'application/vnd.oci.image.layer.v1.tar';
    layers.push({ mediaType, ...(await add(Buffer.from(tar.stdout))) });
  }
  const config = await json({
    architecture: 'amd64',
    os: 'linux',
    rootfs: { type: 'layers', diff_ids: [] },
  });
  const manifest = await json({
    schemaVersion: 2,
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
    layers,
  });
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const index = { schemaVersion: 2, manifests: [{ mediaType, ...manifest }] };
  await writeFile(join(layout, 'index.json'), JSON.stringify(index));
  await writeFile(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  return layout;
}

test.serial('upper layers replace, delete and hide what is below them', async (t) => {
  const layout = await layoutOf(
    'layers',
    'mkdir -p etc usr/lib opt/old opt/kept; echo 1 >etc/a; echo 1 >etc/b; echo 1 >opt/old/x; echo 1 >opt/kept/x; ln -s usr/lib lib; mkdir was-folder; touch was-folder/x; touch was-file',
    'mkdir -p etc opt/kept lib; rmdir lib; mkdir lib; touch etc/.wh.b; echo 2 >etc/a; mkdir opt/old; touch opt/old/.wh..wh..opq; echo 2 >opt/old/y; echo 2 >was-folder; mkdir was-file; touch was-file/x; rmdir lib',
    'mkdir -p lib; echo 3 >lib/through; ',
  );
  const id = (await kiln('import', layout)).trim();
  const tree = join(state.engine.paths.images, id, 'tree');
  const text = (path: string) => readFile(join(tree, path), 'utf8');
  t.is(await text('etc/a'), '2\n');
  t.deepEqual(await readdir(join(tree, 'etc')), ['a']);
  t.deepEqual(await readdir(join(tree, 'opt/old')), ['y']);
  t.is(await text('opt/kept/x'), '1\n');
  t.is(await text('was-folder'), '2\n');
  t.deepEqual(await readdir(join(tree, 'was-file')), ['x']);
});

test.serial('a damaged layer is refused', async (t) => {
  const layout = await layoutOf('damaged', 'echo 1 >a');
  const blobs = join(layout, 'blobs', 'sha256');
  for (const name of await readdir(blobs)) {
    const path = join(blobs, name);
    if ((await stat(path)).size < 5000) continue;
    const bytes = await readFile(path);
    bytes[600] = (bytes[600]! + 1) % 256;
    await writeFile(path, bytes);
  }
  const { exitCode, stderr } = await state.kiln(['image', 'import', layout]);
  t.is(exitCode, 125);
  t.regex(String(stderr), /the layer sha256:\w+ of .* is damaged/);
});

test.serial('a link of a layout leads to no file outside of its folder', async (t) => {
  const layout = await layoutOf('linked', 'echo 1 >a');
  const outside = join(state.directory, 'outside');
  await mkdir(outside);
  const blobs = (await readdir(join(layout, 'blobs/sha256'))).map((name) => `blobs/sha256/${name}`);
  for (const name of ['index.json', ...blobs, 'blobs/sha256', 'blobs']) {
    const [path, other] = [join(layout, name), join(outside, 'it')];
    await rename(path, other);
    await symlink(other, path);
    const refused = await state.kiln(['image', 'import', layout]);
    t.is(refused.exitCode, 125, name);
    t.regex(String(refused.stderr), /a link leads out of the layout \[E_OCI\]/, name);
    await rm(path);
    await rename(other, path);
  }
  const [index, secret] = [join(layout, 'index.json'), join(outside, 'secret')];
  await writeFile(secret, 'nobody-but-root');
  await rename(index, join(layout, 'there.json'));
  await symlink(secret, index);
  t.notRegex(String((await state.kiln(['image', 'import', layout])).stderr), /nobody-but-root/);
  // Inside of it, links are fine; the layout itself may be named by one.
  await rm(index);
  await symlink('there.json', index);
  await symlink(layout, join(outside, 'by-link'));
  t.regex(await kiln('import', join(outside, 'by-link')), /^[0-9a-f]{64}$/m);
});

/** A tar archive of entries that no tar program would write. */
async function hostileTar(name: string, python: string): Promise<string> {
  const path = join(state.directory, name);
  const script = `
import io, os, sys, tarfile
t = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT)
def add(name, type=tarfile.REGTYPE, data=b'', **more):
    i = tarfile.TarInfo(name); i.type = type; i.size = len(data)
    for k, v in more.items(): setattr(i, k, v)
    t.addfile(i, io.BytesIO(data))
${python}
t.close()`;
  await execa('python3', ['-c', script, path]);
  return path;
}

test.serial('nothing in an archive reaches out of the image', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const { paths } = state.engine;
  const victim = join(state.directory, 'victim');
  await writeFile(victim, 'untouched');
  const link = await hostileTar(
    'link.tar',
    `
add('out', tarfile.SYMTYPE, linkname='${state.directory}')
add('out/victim', data=b'overwritten')
add('abs', tarfile.SYMTYPE, linkname='/')
add('abs/inside', data=b'1')
add('hard', tarfile.LNKTYPE, linkname='abs/inside')
add('null', tarfile.CHRTYPE, devmajor=1, devminor=3)`,
  );
  await using imported = await importImage(paths, link, { arch: 'x86_64', from: link });
  t.is(await readFile(victim, 'utf8'), 'untouched');
  t.is(await readFile(join(imported.tree, 'inside'), 'utf8'), '1');
  t.is(lstatSync(join(imported.tree, 'hard')).ino, lstatSync(join(imported.tree, 'inside')).ino);
  t.deepEqual(imported.manifest.warnings, ['/null is a character-device: left out']);

  const refused: readonly (readonly [string, string, RegExp])[] = [
    ['up.tar', "add('a/../../victim', data=b'x')", /refused: it has the name/],
    ['owner.tar', "add('a', uid=100000)", /refused: it has an owner/],
    [
      'root.tar',
      "add('.', tarfile.SYMTYPE, linkname='/tmp')",
      /refused: its file \/ is not a folder/,
    ],
    ['hard.tar', "add('a', tarfile.LNKTYPE, linkname='../victim')", /refused: it has the name/],
    ['bomb.tar', "add('a', data=bytes(3000000))", /put more than 1\.9M on the disk/],
    ['files.tar', "[add(f'f{i}') for i in range(200)]", /put more than 123 files on the disk/],
    [
      'cut.tar',
      "add('a', data=bytes(100000)); t.fileobj.flush(); os.truncate(sys.argv[1], 2000); os._exit(0)",
      /damaged|not a tar/,
    ],
    ['text.tar', "t.fileobj.write(b'this is no archive' * 100)", /damaged|not a tar/],
  ];
  for (const [name, python, message] of refused) {
    const archive = await hostileTar(name, python);
    const error = await t.throwsAsync(
      importImage(paths, archive, { arch: 'x86_64', from: archive, maxBytes: 2_000_000 }),
      { instanceOf: KilnError },
      name,
    );
    t.regex(error!.message, message, name);
  }
  t.is(await readFile(victim, 'utf8'), 'untouched');
  t.deepEqual(await readdir(join(paths.store, 'work')), []);
  await rm(victim);
});

/** As tarfile makes them, but for the field of the size: it does not check that. */
test.serial('an impossible size is an error for a file, and ignored for a folder', async (t) => {
  t.timeout(240_000 * PATIENCE);
  const { paths } = state.engine;
  const header = (size: string, more = '') => `
i = tarfile.TarInfo('a'); ${more}
h = bytearray(i.tobuf(tarfile.GNU_FORMAT))
h[124:136] = ${size}
h[148:156] = b'%06o\\0 ' % (sum(h[:148]) + sum(h[156:]) + 256)
t.fileobj.write(h + bytes(2048)); t.fileobj.flush(); os._exit(0)`;
  const pax = (size: string) => `add('a', data=b'hello', pax_headers={'size': '${size}'})`;
  const octal = "b'77777777777\\0'";
  const bad: Readonly<Record<string, string>> = {
    octal: header(octal),
    '2^53': header('(0x80 << 88 | 1 << 53).to_bytes(12, "big")'),
    '2^87': header('(0x80 << 88 | 1 << 87).to_bytes(12, "big")'),
    '-1': header('b"\\xff" * 12'),
    'a folder of -512': header('b"\\xff" * 10 + b"\\xfe\\0"', 'i.type = tarfile.DIRTYPE'),
    letters: header("b'zzzzzzzzzzz\\0'"),
    'an extended header': header(octal, "i.type = b'x'"),
    'a long name': header(octal, "i.type = b'L'"),
    'pax: 10^30': pax('9'.repeat(30)),
    'pax: 1e308': pax('1e308'),
    'pax: -5': pax('-5'),
    'pax: 5.5': pax('5.5'),
    'pax: abc': pax('abc'),
  };
  for (const [what, python] of Object.entries(bad)) {
    const archive = await hostileTar('size.tar', python);
    const error = await t.throwsAsync(
      importImage(paths, archive, { arch: 'x86_64', from: archive }),
      undefined,
      what,
    );
    t.is((error as KilnError).code, 'E_ARCHIVE', `${what}: ${error}`);
    t.true(error!.message.startsWith(`${archive}: `), `${what}: ${error}`);
  }
  const folder = await hostileTar('folder.tar', header(octal, 'i.type = tarfile.DIRTYPE'));
  await using imported = await importImage(paths, folder, { arch: 'x86_64', from: folder });
  t.true(lstatSync(join(imported.tree, 'a')).isDirectory());
});
