import { existsSync, globSync, readFileSync } from 'node:fs';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { KilnError } from '../../src/errors.ts';
import { verifyPackages } from '../../src/image/store/verify.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';
import { endSleep, kill } from '../support/killing.ts';
import { ownSeconds, processesCalled } from '../support/processes.ts';
import {
  debianRepository,
  type FixtureRepository,
  type ImageState,
  imageState,
} from './image-state.ts';
import { differences, snapshotTree } from './tree-snapshot.ts';

let state: ImageState;
let repositories: readonly FixtureRepository[];

const MARK = ownSeconds();
const SPOILED = ownSeconds();
const BASE = 'base-files, base-passwd, dash, coreutils, grep, util-linux';

/** What a scriptlet leaves running sleeps. */
const SECONDS = ownSeconds();

/** Packages of which only the scriptlets matter, by name. */
const SPECS: Readonly<Record<string, string>> = {
  probe: `%post
exec >/etc/probe 2>&1
grep -E '^Cap(Eff|Bnd)|^NoNewPrivs|^Seccomp:' /proc/self/status
grep -c : /proc/net/dev
unshare --mount true && echo mounted
mknod /tmp/device b 8 0 && echo device
echo 1 >/proc/sys/kernel/panic && echo sysctl
unshare -n true && echo unshared
echo changed >>/usr/share/probe/file
chmod 600 /usr/bin/env
exit 0
%files
/usr/share/probe/file`,
  slow: '%post\nsleep 300\n%files',
  daemon: `%post\n(sleep ${SECONDS}; touch /etc/late) </dev/null >/dev/null 2>&1 &\n%files`,
  holder: '%post\nsleep 600 &\necho >/etc/held\n%files',
  fill: '%post\nwhile head -c 20M /dev/zero >>/var/fill; do :; done\nexit 0\n%files',
  reserve: `%post
exec >/etc/reserved 2>&1
LC_ALL=C perl -e 'open F, ">", "/var/reserved";
  print "fallocate ", syscall(285, fileno(F), 0, 0, 1 << 40) < 0 ? 0 + $! : "done", "\\n";
  for (0x40305828, 0x4030582a, 0x40305839) {
    my $range = pack("s s l q q l l l4", 0, 0, 0, 0, 1 << 40, 0, 0, 0, 0, 0, 0);
    print "ioctl ", ioctl(F, $_, $range) ? "done" : 0 + $!, "\\n" }
  my $flags = "\\0" x 8;
  print "flags ", ioctl(F, 0x80086601, $flags) ? "done" : 0 + $!, "\\n"'
fallocate -l 1T /var/reserved
exit 0
%files`,
  swap: `%post
mv /etc /etc.real
mkdir -p @OUTSIDE@
cp -a /etc.real/passwd /etc.real/group @OUTSIDE@
ln -s @OUTSIDE@ /etc
rm -rf /home; ln -s ../../../../../../../../../tmp /home
%files`,
  noisy:
    '%post\nfor i in 1 2 3 4 5 6 7 8 9; do cat /usr/bin/* 2>/dev/null; done\necho the end\nexit 3\n%files',
  killed: `%post\nsleep ${MARK}\n%files`,
  spoiled: `%post\nsleep ${SPOILED}\n%files\n/usr/share/probe/file`,
};

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  state = await imageState({ unpacked: 'noarch' });
  const directory = join(state.directory, 'repository');
  const outside = join(state.directory, 'outside');
  await mkdir(directory);
  await mkdir(outside);
  for (const [name, sections] of Object.entries(SPECS)) {
    const spec = join(state.directory, `${name}.spec`);
    await writeFile(
      spec,
      `Name: ${name}\nVersion: 1\nRelease: 1\nSummary: test\nLicense: none\nBuildArch: noarch
Requires(post): /bin/sh
%description
test
%install
mkdir -p %{buildroot}/usr/share/probe; echo original >%{buildroot}/usr/share/probe/file
${sections.replaceAll('@OUTSIDE@', outside)}\n`,
    );
    const macros = {
      _rpmdir: directory,
      _topdir: join(state.directory, 'top'),
      _rpmfilename: '%%{NAME}.rpm',
    };
    const defines = Object.entries({ ...macros, _unpackaged_files_terminate_build: '0' });
    const flags = defines.flatMap(([key, value]) => ['--define', `${key} ${value}`]);
    await execa('rpmbuild', ['-bb', ...flags, spec]);
  }
  await execa('createrepo_c', [directory]);
  repositories = [await debianRepository(), { id: 'scripts', directory }];
});
test.after.always(() => state[Symbol.asyncDispose]());

const recipe = (name: string, more = '') =>
  state.recipe(name, `packages: [${BASE}, ${name}]\n${more}`, repositories);

test.serial('a scriptlet has only the rights it needs, and cannot reach the store', async (t) => {
  t.timeout(120_000 * PATIENCE);
  // Unpacked before anything runs.
  await state.open(
    await state.recipe(
      'plain',
      `packages: [${BASE}, probe]\nscriptlets: { mode: none }`,
      repositories,
    ),
  );
  const before = snapshotTree(state.engine.paths.packages);
  const image = await state.open(await recipe('probe'));
  const lines = (await readFile(join(image.tree, 'etc/probe'), 'utf8')).split('\n');
  // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, SYS_CHROOT, SETFCAP: bits 0 1 3 4 6 7 18 31.
  t.true(lines.includes('CapEff:\t00000000800400db'), lines.join('\n'));
  t.true(lines.includes('CapBnd:\t00000000800400db'));
  t.true(lines.includes('NoNewPrivs:\t1'));
  t.true(lines.includes('Seccomp:\t2'));
  // The one line of /proc/net/dev with a colon: lo.
  t.true(lines.includes('1'));
  t.notRegex(lines.join('\n'), /^(mounted|device|sysctl|unshared)$/m);
  t.is(await readFile(join(image.tree, 'usr/share/probe/file'), 'utf8'), 'original\nchanged\n');
  // Names of hosts are no part of an image.
  for (const name of ['hosts', 'resolv.conf']) t.false(existsSync(join(image.tree, 'etc', name)));
  t.deepEqual([...differences(before, snapshotTree(state.engine.paths.packages))], []);
});

test.serial('scriptlets that fill the disk end at their bound, and leave nothing', async (t) => {
  t.timeout(180_000 * PATIENCE);
  const { paths } = state.engine;
  const path = await recipe('fill', 'disk: 200M');
  const error = await t.throwsAsync(state.open(path), { instanceOf: KilnError });
  t.is((error as KilnError).code, 'E_DISK', String(error));
  t.regex(error!.message, /scriptlets put more than 200\.0M on the disk/);
  t.deepEqual(await readdir(join(paths.store, 'work')), []);
  t.deepEqual(await readdir(paths.trash), []);
  t.deepEqual(await readdir(paths.sandboxes), []);
});

test.serial('packages that unpack to more than the bound are refused', async (t) => {
  t.timeout(180_000 * PATIENCE);
  const { paths } = state.engine;
  const own = await imageState();
  t.teardown(() => own[Symbol.asyncDispose]());
  const path = await own.recipe('large', `packages: [${BASE}]\ndisk: 8M`, repositories);
  const error = await t.throwsAsync(own.open(path), { instanceOf: KilnError });
  t.is((error as KilnError).code, 'E_DISK', String(error));
  t.regex(error!.message, /put (?:more than 8|\d+)\.\dM on the disk/);
  t.deepEqual(await readdir(own.engine.paths.trash), []);
  t.deepEqual(await readdir(paths.trash), []);
});

test.serial('a scriptlet cannot reserve space without writing it', async (t) => {
  t.timeout(180_000 * PATIENCE);
  const path = await state.recipe(
    'reserve',
    `packages: [${BASE}, perl-base, reserve]`,
    repositories,
  );
  const image = await state.open(path);
  const said = await readFile(join(image.tree, 'etc/reserved'), 'utf8');
  // EOPNOTSUPP, as of a file system that cannot; ENOSYS.
  t.regex(said, /^fallocate 95\nioctl 38\nioctl 38\nioctl 38\nflags done\n/, said);
  t.regex(said, /fallocate: .*not supported/, said);
  t.is((await stat(join(image.tree, 'var/reserved'))).blocks, 0);
});

test.serial('a scriptlet that hangs is killed, and the message names it', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const path = await recipe('slow', `scriptlets: { timeout: ${2 * PATIENCE}s }`);
  const error = await t.throwsAsync(state.open(path), { instanceOf: KilnError });
  t.is((error as KilnError).code, 'E_SCRIPTLET');
  t.regex(error!.message, /%post\(slow-1-1\.noarch\) scriptlet took too long and was killed/);
});

test.serial('a transaction whose sandbox is killed is not a scriptlet’s failure', async (t) => {
  const opening = state.open(await recipe('killed'));
  await Promise.all([
    kill('libvirt_lxc', MARK),
    t.throwsAsync(opening, { instanceOf: KilnError, code: 'E_SANDBOX_GONE' }),
  ]);
});

test.serial('a package found damaged while an image is made of it is in no image', async (t) => {
  t.timeout(180_000 * PATIENCE);
  const { paths } = state.engine;
  const path = await recipe('spoiled');
  const opening = state.open(path);
  const refused = t.throwsAsync(opening, { instanceOf: KilnError, code: 'E_STORE' });
  t.true(await until(() => processesCalled('sleep', SPOILED).length === 1));
  // Other packages of this file's tests have it, too.
  const [record = ''] = globSync(`${paths.packages}/*/package.json`).filter((one) =>
    readFileSync(one, 'utf8').includes('"name":"spoiled"'),
  );
  const file = join(record, '../tree/usr/share/probe/file');
  await writeFile(file, 'changed!\n');
  t.is((await verifyPackages(paths)).damaged.length, 1);
  await endSleep(SPOILED);
  t.regex((await refused)?.message ?? '', /^spoiled was found to be damaged while/);
  const again = state.open(path);
  await endSleep(SPOILED);
  const image = await again;
  t.is(await readFile(join(image.tree, 'usr/share/probe/file'), 'utf8'), 'original\n');
  t.like(await verifyPackages(paths), { damaged: [], images: [] });
});

test.serial('processes that a scriptlet leaves running end with the transaction', async (t) => {
  const image = await state.open(await recipe('daemon'));
  t.false(existsSync(join(image.tree, 'etc/late')));
  t.true(await until(() => processesCalled('sleep', SECONDS).length === 0));
});

test.serial('kiln does not wait for a process that holds a scriptlet’s output open', async (t) => {
  t.timeout(60_000 * PATIENCE);
  const image = await state.open(await recipe('holder'));
  t.true(existsSync(join(image.tree, 'etc/held')));
  t.deepEqual(image.manifest.warnings, []);
});

test.serial('folders that a scriptlet replaced by links lead nothing outside', async (t) => {
  const path = await recipe(
    'swap',
    `files: [{ path: /etc/inside, content: x }, { path: /home/inside, content: x }]
users: [{ name: build, uid: 1000, home: /home/build }]`,
  );
  const image = await state.open(path);
  const outside = join(state.directory, 'outside');
  t.false(existsSync(join(outside, 'inside')));
  t.false(existsSync('/tmp/build') && existsSync('/tmp/inside'));
  // Where the links lead as seen from inside.
  t.is(await readFile(join(image.tree, outside, 'inside'), 'utf8'), 'x');
  t.is(await readFile(join(image.tree, 'tmp/inside'), 'utf8'), 'x');
  t.true(existsSync(join(image.tree, 'tmp/build')));
});

test.serial('the error of a failed script shows the end of the script’s own output', async (t) => {
  const image = await state.open(await recipe('noisy'));
  t.deepEqual(image.manifest.warnings, [
    '%post(noisy-1-1.noarch) scriptlet failed, exit status 3, arguments 1',
  ]);
});
