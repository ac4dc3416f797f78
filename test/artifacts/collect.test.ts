import { lstatSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { missingArtifacts } from '../../src/artifacts/collect.ts';
import { BASE, bashIn, OWNER, sandboxTree } from './sandbox-tree.ts';

/** Everything find(1) knows of a tree except owners: type, mode, size, ns times, links, targets. */
const LISTING = String.raw`find . -mindepth 1 -printf '%P\0%y %m %s %T@ %n %l\0' | sort -z | od -An -c`;

test(`a folder is collected as cp -a copies it, but owned by the caller`, async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`
    mkdir -p out/deep/er out/empty 'out/sp ace'
    echo one > out/one; ln out/one out/deep/same; ln out/one out/deep/er/too; ln out/one out/a1
    printf 'x' > $'out/new\\nline'; printf 'y' > $'out/bad\\xff\\xfe'; printf z > out/ünï; echo old > out/deep/er/old
    ln -s one out/link; ln -s ../one out/deep/up; ln -s deep out/dir; ln -s dir/er out/via
    ln -s $'bad\\xff\\xfe' out/tobad
    head -c 3000000 /dev/urandom > out/big; head -c 262144 /dev/zero > out/zeros
    chmod 640 out/one; chmod 1777 out/empty; chmod 500 out/deep; chmod 0 out/zeros
    find out -exec touch -h -d '2001-02-03 04:05:06.789012345' {} +
    touch -d '1965-01-01 00:00:00.5 UTC' out/big; touch -d '1965-01-01 00:00:00.4999 UTC' out/zeros out/deep/er/old
    chown -hR ${BASE + 1000}:${BASE + 100} out`);
  const { artifacts, warnings } = await tree.collect(['out']);
  t.deepEqual(warnings, []);
  tree.bash('cp -a out ../oracle');
  t.is(bashIn(join(tree.out, 'out'), LISTING), bashIn(join(tree.root, '../oracle'), LISTING));
  t.is(
    bashIn(tree.out, `find . -mindepth 1 -printf '%U:%G\\n' | sort -u`),
    `${OWNER.uid}:${OWNER.gid}\n`,
  );

  const sums = bashIn(tree.out, `find . -type f -print0 | sort -z | xargs -0 sha256sum -z`);
  const expected = sums
    .split('\0')
    .filter(Boolean)
    .map((line) => {
      const name = Buffer.from(line.slice(66 + 2), 'latin1').toString();
      return `${name} ${line.slice(0, 64)}`;
    });
  const got = artifacts.filter((a) => a.type === 'file').map((a) => `${a.path} ${a.sha256}`);
  t.deepEqual(got.sort(), expected.sort());
  const bad = artifacts.find((a) => a.path === 'out/bad\ufffd\ufffd');
  t.is(bad?.pathBytes, Buffer.from('out/bad\xff\xfe', 'latin1').toString('base64'));
  const old = artifacts.find((a) => a.path === 'out/deep/er/old');
  t.is(old?.mtime, '1965-01-01T00:00:00.499Z');
  t.is(artifacts.find((a) => a.path === 'out/zeros')?.mtime, old?.mtime);
  const up = artifacts.find((a) => a.path === 'out/deep/up');
  t.like(up, { type: 'symlink', target: '../one', source: '/out/deep/up' });
  // The first in the order of names is what the others are links to.
  t.deepEqual(
    artifacts.filter((a) => a.hardLinkTo !== undefined).map((a) => `${a.path} ${a.hardLinkTo}`),
    ['out/deep/er/too out/a1', 'out/deep/same out/a1', 'out/one out/a1'],
  );
  t.like(
    artifacts.find((a) => a.path === 'out/empty'),
    { type: 'directory', mode: '01777' },
  );
});

test('files that are copied in pieces are complete, and so is their digest', async (t) => {
  const tree = sandboxTree(t);
  // Where one-shot copies end (256 KiB), where pieces do (4 MiB), and where few bytes are left.
  const sizes = [262144, 262145, 4194303, 4194304, 4194305, 8388608, 12582913, 12345678];
  tree.bash(sizes.map((size) => `head -c ${size} /dev/urandom > ${size}`).join('\n'));
  const { artifacts } = await tree.collect(['*']);
  t.is(bashIn(tree.out, 'sha256sum *'), bashIn(tree.root, 'sha256sum *'));
  t.deepEqual(
    artifacts.map((a) => `${a.sha256}  ${a.path}\n`).sort(),
    bashIn(tree.root, 'sha256sum *').match(/.*\n/g)?.sort(),
  );
});

test('holes stay holes, and their zeros count in the digest', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`
    truncate -s 60M holes; printf tail | dd of=holes bs=1 seek=40M conv=notrunc status=none
    dd if=/dev/urandom of=holes bs=64k count=3 seek=100 conv=notrunc status=none
    truncate -s 20M all-hole`);
  const { artifacts } = await tree.collect(['*hole*']);
  const list = (dir: string) => bashIn(dir, `sha256sum *hole*; du -k --apparent-size *hole*`);
  t.is(list(tree.out), list(tree.root));
  t.is(
    artifacts.map((a) => `${a.sha256}  ${a.path}\n`).join(''),
    bashIn(tree.out, 'sha256sum *hole*'),
  );
  const blocks = Number(bashIn(tree.out, 'du -kc *hole* | tail -1 | cut -f1'));
  t.true(blocks < 1000, `${blocks} KiB on disk`);
});

test(`devices, fifos and sockets are skipped with a warning, and block nothing`, async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`
    mkdir out; mkfifo out/fifo; mknod out/zero c 1 5; mknod out/disk b 7 0; echo ok > out/file
    perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => "out/sock", Listen => 1)'`);
  const { artifacts, warnings } = await tree.collect(['out', 'out/fifo']);
  t.deepEqual(
    artifacts.map((a) => a.path),
    ['out', 'out/file'],
  );
  const told = warnings.filter((w) => w.code === 'special-file').map((w) => w.message);
  t.deepEqual(told, [
    '"/out/disk" is a block device: skipped',
    '"/out/fifo" is a fifo: skipped',
    '"/out/sock" is a socket: skipped',
    '"/out/zero" is a character device: skipped',
    '"/out/fifo" is a fifo: skipped',
  ]);
});

test('artifacts named like kiln’s own files are skipped with a warning', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`mkdir -p out/result.json out/sub; echo x > out/result.json/x; echo evil > report.html
    echo kept > out/sub/result.json; echo page > out/report.html; ln -s report.html out/page`);
  const collect = (...patterns: string[]) =>
    tree.collect(patterns, { reserved: ['result.json', 'report.html', 'build.log'] });
  const { artifacts, warnings, missing } = await collect(
    ...['report.html', 'build.log', 'out/*', 'out/*/x', 'out'],
  );
  t.deepEqual(
    artifacts.map(({ path }) => path),
    [
      'out',
      ...['page', 'report.html', 'result.json', 'result.json/x', 'sub'].map(
        (name) => `out/${name}`,
      ),
    ].concat('out/sub/result.json', 'sub', 'sub/result.json'),
  );
  t.deepEqual(
    warnings.map(({ code, path }) => `${code} ${path}`),
    [
      ...['report.html', 'out/report.html', 'out/result.json', 'out/result.json'].map(
        (path) => `reserved-name /${path}`,
      ),
      'link-outside /out/page',
      ...['report.html', 'build.log', 'out/*/x'].map((pattern) => `no-match ${pattern}`),
    ],
  );
  t.deepEqual(missing, ['report.html', 'build.log', 'out/*/x']);
});

test(`setuid and setgid bits are dropped`, async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`mkdir out; cp /bin/true out/su; cp /bin/true out/sg; mkdir out/dir
    chmod 4755 out/su; chmod 2711 out/sg; chmod 2775 out/dir; chown -R ${BASE}:${BASE} out/dir`);
  const { artifacts, warnings } = await tree.collect(['out']);
  t.is(bashIn(tree.out, 'stat -c %a out/su out/sg out/dir'), '755\n711\n775\n');
  t.is(artifacts.find((a) => a.path === 'out/su')?.mode, '0755');
  t.deepEqual(
    warnings.map((w) => `${w.code} ${w.path}`),
    ['mode-bits-dropped /out/dir', 'mode-bits-dropped /out/sg', 'mode-bits-dropped /out/su'],
  );
});

test('links are never followed out, and come out only with the file they name', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`
    mkdir -p out/a/b other; echo in > out/in; echo no > other/secret; echo s > ../secret
    ln -s /etc/passwd out/absolute; ln -s ../../secret out/above; ln -s ../other/secret out/beside
    ln -s missing out/dangling; ln -s loop out/loop; ln -s a/../in out/dots; ln -s ../in out/a/good
    ln -s b out/a/c; ln -s c/../../../secret out/a/tricky; ln -s ../../../../x out/a/b/far
    ln -s in/x out/notdir; ln -s a/good out/chain; ln -s above out/chain-out; ln -s . out/self`);
  const { artifacts, warnings } = await tree.collect(['out']);
  const links = artifacts.filter((a) => a.type === 'symlink').map((a) => a.path);
  t.deepEqual(links, ['out/a/c', 'out/a/good', 'out/chain', 'out/self']);
  t.deepEqual(new Set(warnings.map((w) => w.code)), new Set(['link-outside']));
  t.is(warnings.length, 10);
  // The reason is true, of a link to what was collected, too.
  tree.bash('ln -s /out/in out/in-absolute');
  const why = (from: typeof warnings, name: string) =>
    from.find(({ path }) => path === name)?.message.replace(/^.*" is a symbolic link to /, '');
  const again = await tree.collect(['out/*']);
  t.is(
    why(again.warnings, '/out/in-absolute'),
    '"/out/in", which is absolute: skipped (docs/artifacts.md)',
  );
  t.is(
    why(warnings, '/out/dots'),
    '"a/../in", where `..` stands behind a name: skipped (docs/artifacts.md)',
  );
  t.is(
    why(warnings, '/out/beside'),
    '"../other/secret", which leads to nothing that is collected: skipped (docs/artifacts.md)',
  );
  t.is(
    why(warnings, '/out/chain-out'),
    '"above", which leads to nothing that is collected: skipped (docs/artifacts.md)',
  );
  // `..` counts in the result directory, where the names that the pattern spells out are no folders.
  t.is(
    why(again.warnings, '/out/beside'),
    '"../other/secret", which leads above the artifacts: skipped (docs/artifacts.md)',
  );
  t.is(readlinkSync(join(tree.out, 'out/chain')), 'a/good');
  t.is(bashIn(tree.out, 'find . -xtype l'), '');
});

test('links in the path of a pattern resolve inside the tree', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`mkdir -p usr/lib etc; echo lib > usr/lib/x; echo ours > etc/passwd; echo g > etc/group
    ln -s usr/lib lib; ln -s /etc var; ln -s ../../../../.. up`);
  await tree.collect(['/lib/x', 'var/pass*', 'up/etc/gr*']);
  t.is(readFileSync(join(tree.out, 'x'), 'utf8'), 'lib\n');
  t.is(readFileSync(join(tree.out, 'passwd'), 'utf8'), 'ours\n');
  t.is(readFileSync(join(tree.out, 'group'), 'utf8'), 'g\n');
});

test('patterns that match nothing are listed as missing, and fail the job', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`mkdir -p a; echo x > a/x; mkfifo pipe; ln -s a/x named`);
  const collection = await tree.collect(['a/x', 'a/*.rpm', '/no/such/place', 'pipe', 'named']);
  t.deepEqual(collection.missing, ['a/*.rpm', '/no/such/place', 'pipe', 'named']);
  t.is(collection.warnings.filter((w) => w.code === 'no-match').length, 4);
  t.is(readFileSync(join(tree.out, 'x'), 'utf8'), 'x\n');
  const error = missingArtifacts(collection);
  t.is(error?.code, 'E_ARTIFACT_MISSING');
  t.regex(error?.message ?? '', /a\/\*\.rpm/);
  t.is(missingArtifacts(await tree.collect(['a/x'])), undefined);
});

test(`two matches cannot become one file, but one file may match twice`, async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`mkdir a b; echo 1 > a/x; echo 2 > b/x; echo 3 > b/y`);
  await t.throwsAsync(tree.collect(['a/x', 'b/x']), {
    code: 'E_ARTIFACT_COLLISION',
    message: '"/a/x" and "/b/x" would both become "x"',
  });
  t.is(bashIn(tree.out, 'ls -A'), '');
  const { artifacts } = await tree.collect(['{a,b}/x', '*/x', 'b', 'b/y']);
  t.deepEqual(
    artifacts.map((a) => a.path),
    ['a', 'a/x', 'b', 'b/x', 'b/y', 'y'],
  );
  t.is(lstatSync(join(tree.out, 'y')).nlink, 1);
});

test('nothing is collected from pseudo file systems', async (t) => {
  const tree = sandboxTree(t);
  tree.bash('mkdir -p proc/1; echo x > file');
  const at = `${tree.root}/proc`;
  bashIn('/', `mount -t proc proc ${at}`);
  try {
    const { artifacts, warnings } = await tree.collect(['proc/self/environ', '**']);
    t.deepEqual(
      artifacts.map((a) => a.path),
      ['file'],
    );
    t.deepEqual(new Set(warnings.map((w) => w.code)), new Set(['pseudo-filesystem', 'no-match']));
  } finally {
    bashIn('/', `umount ${at}`);
  }
});
