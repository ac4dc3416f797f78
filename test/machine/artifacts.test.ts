/** What a machine that has broken its kernel sends as artifacts: whatever it is, it is unpacked and collected like this. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import anyTest, { type ExecutionContext } from 'ava';
import { collectArtifacts } from '../../src/artifacts/collect.ts';
import type { Warning } from '../../src/artifacts/warning.ts';
import { defined } from '../../src/defined.ts';
import { ownPath } from '../../src/host/files/held.ts';
import { emptyTrash } from '../../src/image/store/work-directory.ts';
import { openArtifactTree } from '../../src/jobs/run/artifact-tree.ts';
import { type BusyboxState, busyboxState, PATIENCE } from '../support/busybox-state.ts';
import { isLong } from '../support/long.ts';
import { type Entry, tar } from './hostile/archive.ts';

const test = anyTest.serial;

const SECRET = 'of the host’s root';
const OWNER = 4321;

let state: BusyboxState;
let secret: string;
let count = 0;

test.before(async () => {
  state = await busyboxState();
  secret = join(state.beside, 'secret');
  execFileSync('sh', ['-c', `printf '%s' '${SECRET}' > ${secret}; chmod 600 ${secret}`]);
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

interface Came {
  readonly code: string | undefined;
  readonly warnings: readonly string[];
  /** In the folder of results. */
  readonly files: readonly string[];
  readonly out: string;
}

/** Collects `/out` and all below it of a machine that sends what a program writes. */
async function collect(
  argv: readonly [string, ...string[]],
  limit?: number,
  patience = 60_000 * PATIENCE,
): Promise<Came> {
  const out = join(state.beside, `out-${count++}`);
  await mkdir(out);
  const warnings: string[] = [];
  const warn = ({ code }: Warning) => void warnings.push(code);
  const [program, ...words] = argv;
  const pack = async (_patterns: Buffer, to: number) => {
    const child = spawn(program, words, { stdio: ['ignore', to, 'ignore'] });
    await once(child, 'exit');
  };
  const signal = AbortSignal.timeout(patience);
  const { paths } = state;
  const request = { ...{ paths, patterns: ['/out'], workdir: '/', signal, warn }, bytes: limit };
  let code: string | undefined;
  try {
    await using tree = await openArtifactTree({ inside: { pack }, openRoot: () => -1 }, request);
    await collectArtifacts({
      rootFd: tree.rootFd,
      patterns: tree.patterns,
      workdir: '/',
      destination: ownPath(out),
      reserved: ['result.json', 'report.html'],
      owner: { uid: OWNER, gid: OWNER },
      limits: defined({ bytes: limit }),
      onWarning: warn,
      signal,
    });
  } catch (error) {
    const { code: named, name } = error as { code?: unknown; name: string };
    code = typeof named === 'string' ? named : name;
  }
  const listing = ['.', '-type', 'f', '-printf', '%P\n'];
  const files = execFileSync('find', listing, { cwd: out, encoding: 'utf8' });
  return { code, warnings, files: files.split('\n').filter(Boolean).sort(), out };
}

async function send(bytes: Buffer, limit?: number): Promise<Came> {
  const archive = join(state.beside, `archive-${count}`);
  await writeFile(archive, bytes);
  return await collect(['cat', archive], limit);
}

/** Nothing of the host has come out or has changed, and nothing stays of what was unpacked. */
function requireNothing(t: ExecutionContext, { out }: Came, what: string): void {
  t.is(readFileSync(secret, 'utf8'), SECRET, what);
  const { stdout } = spawnSync('grep', ['-rl', SECRET, out], { encoding: 'utf8' });
  t.is(stdout, '', what);
  const special = ['-type', 'b', '-o', '-type', 'c', '-o', '-type', 'p', '-o', '-perm', '/6000'];
  t.is(execFileSync('find', [out, ...special], { encoding: 'utf8' }), '', what);
  t.is(execFileSync('getcap', ['-r', out], { encoding: 'utf8' }), '', what);
  t.deepEqual(readdirSync(join(state.paths.store, 'work')), [], what);
}

const file = (name: string, more: Partial<Entry> = {}): Entry => {
  return { name: `0/${name}`, content: 'x', ...more };
};
const GOOD = file('out/good');
const DEEP = `out/${'d/'.repeat(1000)}x`;
const CAPABILITY = '\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0';

/** Archives, and what comes of them: a failure, or what is in the folder of results. */
const ATTEMPTS: Readonly<Record<string, readonly [() => Buffer, string | readonly string[]]>> = {
  'a file above the tree': [() => tar([GOOD, file('../../out/x')]), 'E_MACHINE'],
  'a file above it by a pax record': [
    () => tar([GOOD, file('out/x', { pax: { path: '0/out/../../../x' } })]),
    'E_MACHINE',
  ],
  'an absolute name': [() => tar([GOOD, { name: secret, content: 'changed' }]), ['out/good']],
  'a name with NUL in it': [() => tar([file('x', { pax: { path: '0/out/a\0b' } })]), 'E_MACHINE'],
  'a file behind a link that leads out': [
    () =>
      tar([
        { name: '0/out', type: '5', mode: 0o755 },
        { name: '0/out/link', type: '2', link: state.beside },
        file('out/link/secret', { content: 'changed' }),
      ]),
    ['out/link/secret'],
  ],
  'a file in the place of a link to one of the host': [
    () =>
      tar([
        { name: '0/out/link', type: '2', link: secret },
        file('out/link', { content: 'changed' }),
      ]),
    ['out/link'],
  ],
  'links to files of the host': [
    () =>
      tar([
        GOOD,
        { name: '0/out/a', type: '2', link: secret },
        { name: '0/out/b', type: '2', link: '../../../../../../etc/shadow' },
        { name: '0/out/c', type: '2', link: '/proc/self/root' },
      ]),
    ['out/good'],
  ],
  'the root as a link': [() => tar([{ name: '0', type: '2', link: '/' }, GOOD]), ['out/good']],
  'a second name of a file of the host': [
    () => tar([{ name: '0/out/a', type: '1', link: secret }]),
    'E_MACHINE',
  ],
  'a second name of one above the tree': [
    () => tar([{ name: '0/out/a', type: '1', link: '../secret' }]),
    'E_MACHINE',
  ],
  'a second name of a link that leads out': [
    () =>
      tar([
        { name: '0/out/a', type: '2', link: secret },
        { name: '0/out/b', type: '1', link: '0/out/a' },
      ]),
    [],
  ],
  'a second name of a folder': [
    () =>
      tar([
        { name: '0/out', type: '5', mode: 0o755 },
        { name: '0/x', type: '1', link: '0/out' },
      ]),
    'E_MACHINE',
  ],
  'devices and pipes': [
    () =>
      tar([
        GOOD,
        { name: '0/out/c', type: '3', mode: 0o666 },
        { name: '0/out/b', type: '4', mode: 0o666 },
        { name: '0/out/p', type: '6', mode: 0o666 },
      ]),
    ['out/good'],
  ],
  'set-id files': [() => tar([file('out/s', { mode: 0o6755 })]), ['out/s']],
  'a file with capabilities': [
    () => tar([file('out/s', { pax: { 'SCHILY.xattr.security.capability': CAPABILITY } })]),
    ['out/s'],
  ],
  'a size of exabytes': [() => tar([GOOD, file('out/x', { size: 0o77777777777 })]), 'E_MACHINE'],
  'a size of exabytes by a pax record': [
    () => tar([GOOD, file('out/x', { pax: { size: '9223372036854775807' } })]),
    'E_MACHINE',
  ],
  'a size below nothing': [
    () => tar([GOOD, file('out/x', { rawSize: Buffer.alloc(12, 0xff) })]),
    'E_MACHINE',
  ],
  'a file with holes of exabytes': [
    () =>
      tar([
        file('out/x', {
          pax: {
            'GNU.sparse.major': '1',
            'GNU.sparse.minor': '0',
            'GNU.sparse.realsize': '1152921504606846976',
            'GNU.sparse.name': '0/out/y',
          },
        }),
      ]),
    ['out/x'],
  ],
  'an old file with holes': [() => tar([GOOD, file('out/x', { type: 'S' })]), ['out/good']],
  'a pax record without an end': [
    () => tar([{ name: 'pax', type: 'x', content: '999999999 path=x\n' }, GOOD]),
    [],
  ],
  'pax records of gigabytes': [
    () => tar([{ name: 'pax', type: 'x', size: 0o17777777777, content: '9 path=x\n' }, GOOD]),
    'E_MACHINE',
  ],
  'pax records for all that follows': [
    () => tar([{ name: 'pax', type: 'g', content: '20 path=../../x/yyy\n' }, GOOD]),
    ['out/good'],
  ],
  'folders a thousand deep': [
    () => tar([file('x', { pax: { path: `0/${DEEP}` } })]),
    'E_ARTIFACT_LIMIT',
  ],
  'a name beyond what a path may have': [
    () => tar([file('x', { pax: { path: `0/out/${'d/'.repeat(5000)}x` } })]),
    'E_MACHINE',
  ],
  'a name of 64 KiB': [
    () => tar([file('x', { pax: { path: `0/out/${'d'.repeat(65_536)}` } })]),
    'E_MACHINE',
  ],
  'files that delete others where layers are unpacked': [
    () => tar([GOOD, file('out/.wh.good'), file('out/.wh..wh..opq')]),
    ['out/.wh..wh..opq', 'out/.wh.good', 'out/good'],
  ],
  'names of kiln’s own files': [
    () => tar([file('out/result.json'), file('out'), file('result.json')]),
    ['out'],
  ],
  'a file, then a folder of its name, then a file': [
    () => tar([GOOD, { ...GOOD, type: '5' }, file('out/good/in'), GOOD]),
    'E_MACHINE',
  ],
  'a file of a pattern that nobody gave': [
    () => tar([GOOD, { ...GOOD, name: '7/out/x' }]),
    ['out/good'],
  ],
  'an archive without an end': [() => tar([GOOD], false), ['out/good']],
  'half an archive': [
    () => tar([file('out/x', { content: 'x'.repeat(5000) })]).subarray(0, 3000),
    'E_MACHINE',
  ],
  'no archive': [() => Buffer.alloc(100_000, 0x41), 'E_MACHINE'],
  nothing: [() => Buffer.alloc(0), []],
};

test('hostile artifacts of a machine come to nothing', async (t) => {
  t.timeout(240_000 * PATIENCE);
  // Each has a process that unpacks it.
  const tried = Object.entries(ATTEMPTS).filter((_, at) => isLong || at % 3 === 0);
  for (const [what, [archive, comesTo]] of tried) {
    const came = await send(archive());
    t.deepEqual(came.code ?? came.files, comesTo, what);
    requireNothing(t, came, what);
  }
  // However deep what was unpacked is.
  t.true((await emptyTrash(state.paths, (error) => t.fail(error.message))) > 0);
});

test('artifacts of a machine have no more room than their user, compressed or without an end', async (t) => {
  const zeros = zstdCompressSync(tar([file('out/x', { content: Buffer.alloc(64 << 20) })]));
  t.true(zeros.length < 1 << 20);
  const bomb = await send(zeros, 1 << 20);
  t.is(bomb.code, 'E_DISK');
  requireNothing(t, bomb, 'compressed');
  const endless = await collect(['cat', '/dev/zero'], 1 << 20);
  t.is(endless.code, 'E_ARTIFACT_LIMIT');
  requireNothing(t, endless, 'endless');
  // A machine that sends nothing is waited for as long as its caller waits.
  const silent = await collect(['sleep', '20'], 1 << 20, 300);
  t.is(silent.code, 'TimeoutError');
  requireNothing(t, silent, 'silent');
});
