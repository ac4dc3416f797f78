import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import type { KilnError } from '../../src/errors.ts';
import { readRpm } from '../../src/packages/rpm/read.ts';
import { type Unpacked, type UnpackOptions, unpackRpms } from '../../src/packages/rpm/unpack.ts';
import { fixture, keyFile, kiln, packages, put, scratch } from './fixtures.ts';
import { buildRpm, cpioTrailer, honestArchive, strippedEntry } from './rpm-builder.ts';
import { lookAt, type Seen } from './tree.ts';

/** Unpacks files, each into a directory of its number; fails the test when one fails. */
async function unpack(
  t: ExecutionContext,
  files: readonly string[],
  options: Partial<UnpackOptions> = {},
) {
  const root = options.root ?? scratch(t);
  const jobs = files.map((file, i) => ({ file, into: String(i) }));
  const done: Unpacked[] = [];
  for await (const result of unpackRpms(jobs, { policy: 'allow-unsigned', ...options, root })) {
    if ('error' in result) throw result.error;
    done[Number(result.job.into)] = result;
  }
  return { root, done, tree: (i: number) => join(root, String(i)) };
}

/**
 * Without what rpm cannot be asked to leave alone: it gives files to users by name, and what it
 * writes into a directory changes the time it has just given it.
 */
function comparable(tree: Record<string, Seen>) {
  return Object.fromEntries(
    Object.entries(tree).map(([path, { uid: _uid, gid: _gid, mtime, ...rest }]) => [
      path,
      { ...rest, mtime: rest.mode.startsWith('4') ? 'directory' : mtime },
    ]),
  );
}

test('every binary package gives the tree that rpm itself installs', async (t) => {
  const binary = packages.filter((path) => !path.endsWith('.src.rpm'));
  const { done, tree } = await unpack(t, binary);
  for (const [i, file] of binary.entries()) {
    const root = scratch(t);
    const loose = ['--nodeps', '--noscripts', '--notriggers', '--nosignature', '--ignorearch'];
    await execa('rpm', ['--root', root, ...loose, '-i', file], { stdin: 'ignore' });
    const owned = new Set(done[i]!.package.files.map(({ path }) => path.slice(1)));
    const expected = withoutRpmsOwn(lookAt(root), owned);
    const actual = lookAt(tree(i));
    t.deepEqual(comparable(actual), comparable(expected), basename(file));
    for (const { path, type, mtime } of done[i]!.package.files) {
      if (type === 'directory') t.is(actual[path.slice(1)]?.mtime, mtime, path);
    }
  }
});

/** Takes out rpm's database and the accounts it makes for sysusers.d, with their directories. */
function withoutRpmsOwn(tree: Record<string, Seen>, owned: ReadonlySet<string>) {
  const own =
    /^(var\/lib\/rpm(\/|$)|usr\/lib\/sysimage(\/|$)|etc\/(passwd|group|shadow|gshadow)-?$|etc\/\.pwd\.lock$)/;
  const paths = Object.keys(tree).filter((path) => owned.has(path) || !own.test(path));
  const emptied = (path: string) =>
    ['var', 'var/lib', 'etc', 'usr/lib'].includes(path) &&
    !paths.some((other) => other !== 'var/lib' && other.startsWith(`${path}/`));
  return Object.fromEntries(
    paths.filter((path) => owned.has(path) || !emptied(path)).map((path) => [path, tree[path]!]),
  );
}

test('every source package gives the files that rpm itself installs', async (t) => {
  const source = packages.filter((path) => path.endsWith('.src.rpm'));
  const { tree } = await unpack(t, source);
  for (const [i, file] of source.entries()) {
    const into = scratch(t);
    const defines = ['_sourcedir', '_specdir'].flatMap((name) => ['--define', `${name} ${into}`]);
    await execa('rpm', ['--dbpath', into, '--nosignature', ...defines, '-i', file]);
    const plain = (directory: string) =>
      Object.entries(lookAt(directory)).map(([path, { mode, mtime, content }]) => ({
        ...{ path, mode, mtime, content },
      }));
    t.deepEqual(plain(tree(i)), plain(into), basename(file));
  }
});

test('files belong to root, whatever owners they name', async (t) => {
  const file = fixture('RPMS-v6-rpm-file-attrs');
  const path = 'opt/rpm-file-attrs/different-owner-and-group';
  const { tree } = await unpack(t, [file]);
  const { uid, gid, mode } = statSync(join(tree(0), path));
  t.deepEqual([uid, gid, mode & 0o7777], [0, 0, 0o655]);
});

test('ghosts are not made, but set-id bits and capabilities are', async (t) => {
  const data = Buffer.from('#!/bin/sh\n');
  const files = [
    { path: '/usr', mode: 0o042755 },
    { path: '/usr/su', mode: 0o106755, data },
    { path: '/usr/ping', mode: 0o100755, data, caps: 'cap_net_raw,cap_net_admin=ep' },
  ];
  const ghost = { path: '/usr/log', mode: 0o100644, flags: 1 << 6 };
  const archive = honestArchive(files);
  const file = put(scratch(t), 'modes.rpm', buildRpm({ files: [...files, ghost], archive }));
  const { tree } = await unpack(t, [file]);
  t.is(statSync(join(tree(0), 'usr')).mode & 0o7777, 0o2755);
  t.is(statSync(join(tree(0), 'usr/su')).mode & 0o7777, 0o6755);
  t.false(existsSync(join(tree(0), 'usr/log')));
  const { stdout } = await execa('getcap', [join(tree(0), 'usr/ping')]);
  t.regex(stdout, / cap_net_admin,cap_net_raw=ep$/);
});

test('names that are not UTF-8 are written as they are', async (t) => {
  const name = Buffer.from('2f6164ff0a78', 'hex');
  const files = [{ path: name, mode: 0o100644, data: Buffer.from('x') }];
  const { tree } = await unpack(t, [put(scratch(t), 'bytes.rpm', buildRpm({ files }))]);
  const [made] = readdirSync(tree(0), { encoding: 'buffer' });
  t.is(made?.toString('hex'), name.subarray(1).toString('hex'));
});

test('a stripped entry is read, also with a size beyond 4 GiB, which is believed', async (t) => {
  const data = Buffer.from('small');
  const file = { path: '/a', mode: 0o100644, data };
  const stripped = Buffer.concat([strippedEntry(0, data), cpioTrailer]);
  const good = put(scratch(t), 'stripped.rpm', buildRpm({ files: [file], archive: stripped }));
  const { tree } = await unpack(t, [good]);
  t.is(readFileSync(join(tree(0), 'a'), 'utf8'), 'small');
  const huge = { ...file, lie: { size: 5 * 1024 ** 3 } };
  const bad = put(scratch(t), 'huge.rpm', buildRpm({ files: [huge], archive: stripped }));
  t.is((await readRpm(bad)).files[0]?.size, 5 * 1024 ** 3);
  await t.throwsAsync(unpack(t, [bad]), { code: 'E_RPM_FORMAT' });
});

test('a package unpacks beside others, and stops at files that are in the way', async (t) => {
  const directory = scratch(t);
  const [one, two] = [fixture('payload-test-0.1-w9.gzdio'), fixture('zero-epoch')];
  const first = await kiln('rpm', 'unpack', '-C', directory, one, two);
  t.is(first.exitCode, 0, first.stderr);
  const before = lookAt(directory);
  const again = await kiln('rpm', 'unpack', '-C', directory, '--json', one);
  t.is(again.exitCode, 1);
  t.regex(JSON.parse(again.stdout).error.message, /already in the destination/);
  t.deepEqual(lookAt(directory), before);
});

test('a folder that cannot be made is named, and nothing hangs', async (t) => {
  const file = fixture('one-epoch');
  // In /proc, Node's own recursive mkdir never returns.
  for (const directory of ['/proc/kiln-test/x', '/etc/passwd']) {
    const { exitCode, stderr } = await kiln('rpm', 'unpack', '-C', directory, file);
    t.is(exitCode, 125);
    const what = `kiln: the result folder ${directory} cannot be used [E_RESULTDIR]`;
    t.true(stderr.startsWith(what), stderr);
    t.regex(stderr, /^ {2}hint: name a folder/m);
  }
});

test('with a keyring, only packages that its keys signed are unpacked', async (t) => {
  const directory = scratch(t);
  const [trusted, unsigned] = [fixture('v4-signed-rpm-basic-with-rsa4096'), fixture('one-epoch')];
  const other = fixture('v4-signed-rpm-basic-with-ed25519');
  const key = keyFile('v4-rsa4096');
  const run = (file: string, into: string) =>
    kiln('rpm', 'unpack', '--keyring', key, '-C', join(directory, into), file);
  t.is((await run(trusted, 'a')).exitCode, 0);
  const refused = await run(other, 'b');
  t.is(refused.exitCode, 1);
  t.regex(
    refused.stderr,
    /with-ed25519.*signed by 522e846427933839 \(EdDSA\/SHA512\), not by a key/,
  );
  t.deepEqual(readdirSync(join(directory, 'b')), []);
  t.regex((await run(unsigned, 'c')).stderr, /it is not signed/);
});

test('the error of too large a package gives a hint at --max-size', async (t) => {
  const files = [{ path: '/a', mode: 0o100644, data: Buffer.from('two') }];
  const file = put(scratch(t), 'a.rpm', buildRpm({ files }));
  const words = ['unpack', '-C', scratch(t), '--max-size', '1', file];
  const { exitCode, stderr } = await kiln('rpm', ...words);
  t.is(exitCode, 1);
  t.regex(stderr, /1 bytes are allowed; --max-size allows more/);
});

test('aborting an unpack ends it and its children at once', async (t) => {
  const root = scratch(t);
  const controller = new AbortController();
  const jobs = packages.map((file, i) => ({ file, into: String(i) }));
  const run = async () => {
    const options: UnpackOptions = { root, policy: 'allow-unsigned', signal: controller.signal };
    for await (const _ of unpackRpms(jobs, options)) controller.abort(new Error('enough'));
  };
  await t.throwsAsync(run, { message: 'enough' });
  const later = readdirSync(root).length;
  mkdirSync(join(root, 'mark'));
  await new Promise((resolve) => setTimeout(resolve, 300));
  t.is(readdirSync(root).length, later + 1);
});

/** Confined children that this process has started. */
function children(): string[] {
  return readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8')
    .split(' ')
    .filter(
      (pid) => pid !== '' && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('setpriv'),
    );
}

test.serial(
  'no package is opened before it is ready, and larger ones need not wait for it',
  async (t) => {
    const directory = scratch(t);
    const root = scratch(t);
    const build = (text: string) =>
      buildRpm({ files: [{ path: '/a', mode: 0o100644, data: Buffer.from(text) }] });
    const late = put(directory, 'late.rpm', build('early'));
    const others = Array.from({ length: 30 }, (_, i) =>
      put(directory, `${i}.rpm`, build(randomBytes(3000).toString('hex'))),
    );
    const jobs = [...others, late].map((file, i) => ({ file, into: String(i) }));
    const ready = Promise.withResolvers<void>();
    const results = unpackRpms(jobs, {
      root,
      policy: 'allow-unsigned',
      ready: ({ file }) => (file === late ? ready.promise : Promise.resolve()),
    });
    const seen: string[] = [];
    for (let i = 0; i < others.length; i++) {
      const { value } = await results.next();
      seen.push(basename((value as Unpacked).job.file));
    }
    t.false(seen.includes('late.rpm'));
    t.is(new Set(seen).size, others.length);
    put(directory, 'late.rpm', build('ready'));
    ready.resolve();
    t.is(basename(((await results.next()).value as Unpacked).job.file), 'late.rpm');
    t.true((await results.next()).done);
    t.is(readFileSync(join(root, String(others.length), 'a'), 'utf8'), 'ready');
    t.deepEqual(children(), []);
  },
);

test.serial(
  'a package that fails to get ready, or a caller who gives up, ends it all',
  async (t) => {
    const jobs = packages.map((file, i) => ({ file, into: String(i) }));
    const options = { root: scratch(t), policy: 'allow-unsigned' } as const;
    const drain = async (more: Partial<UnpackOptions>) => {
      for await (const _ of unpackRpms(jobs, { ...options, root: scratch(t), ...more }));
    };
    const refusal = new Error('it is another one');
    const refused = drain({
      ready: async ({ into }) => {
        if (into === '3') throw refusal;
      },
    });
    t.is(await t.throwsAsync(refused), refusal);
    t.deepEqual(children(), []);
    const stop = new AbortController();
    const never = drain({ ready: () => new Promise(() => undefined), signal: stop.signal });
    setTimeout(() => stop.abort(refusal), 300);
    t.is(await t.throwsAsync(never), refusal);
    t.deepEqual(children(), []);
    await t.throwsAsync(drain({ ready: () => new Promise(() => undefined), signal: stop.signal }));
    // One that does nothing, and says that it is done.
    const entry = join(import.meta.dirname, 'idle-child.ts');
    for (const concurrency of [1, 3]) {
      const idle = await t.throwsAsync(drain({ entry, concurrency }));
      t.is((idle as KilnError).code, 'E_CONFINE_PROTOCOL');
      t.deepEqual(children(), []);
    }
    for await (const _ of unpackRpms(jobs, options)) break;
    t.deepEqual(children(), []);
  },
);
