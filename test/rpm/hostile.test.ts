import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { fc } from '@fast-check/ava';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import type { ErrorCode } from '../../src/error-codes.ts';
import type { KilnError } from '../../src/errors.ts';
import { Tag } from '../../src/packages/rpm/tags.ts';
import { type UnpackResult, unpackRpms } from '../../src/packages/rpm/unpack.ts';
import { fixture, kiln, put, scratch } from './fixtures.ts';
import { buildRpm, cpioEntry, cpioTrailer, seal, type TestFile } from './rpm-builder.ts';
import { lookAt } from './tree.ts';

const REGULAR = 0o100644;
const DIRECTORY = 0o040755;
const SYMLINK = 0o120777;
const MAX_SIZE = 64 * 1024 * 1024;

const data = Buffer.from('content');
const plain = (path: string, more: Partial<TestFile> = {}): TestFile => ({
  ...{ path, mode: REGULAR, data },
  ...more,
});

interface Attack {
  readonly rpm: Buffer;
  readonly code: ErrorCode;
  readonly message: RegExp;
}

/** Where an attack would write if it could. */
const CANARY = '/tmp/kiln-test-canary';

const attacks: Record<string, Attack> = {
  'a path with ..': {
    rpm: buildRpm({ files: [plain('/usr/../../tmp/kiln-test-canary')] }),
    code: 'E_RPM_HOSTILE',
    message: /\/usr\/\.\.\/\.\.\/tmp\/kiln-test-canary is not at a plain path/,
  },
  'a path that is not absolute': {
    rpm: buildRpm({ files: [plain('tmp/kiln-test-canary')] }),
    code: 'E_RPM_HOSTILE',
    message: /not at a plain path/,
  },
  'a path in the payload that the header does not have': {
    rpm: buildRpm({
      files: [plain('/a')],
      archive: Buffer.concat([cpioEntry(`../../..${CANARY}`, REGULAR, data), cpioTrailer]),
    }),
    code: 'E_RPM_HOSTILE',
    message: /its payload has \.\.\/.*, which its header does not list/,
  },
  'an absolute symbolic link, then a file through it': {
    rpm: buildRpm({ files: [plain('/a', { mode: SYMLINK, target: '/tmp' }), plain('/a/b')] }),
    code: 'E_RPM_HOSTILE',
    message: /\/a\/b is below \/a, which it makes a symbolic link/,
  },
  'a file through a link that comes later': {
    rpm: buildRpm({ files: [plain('/x/y/b'), plain('/x', { mode: SYMLINK, target: '..' })] }),
    code: 'E_RPM_HOSTILE',
    message: /\/x\/y\/b is below \/x/,
  },
  'a folder that turns out to be a link in the payload': {
    rpm: buildRpm({
      files: [plain('/a', { mode: DIRECTORY }), plain('/a/b')],
      archive: Buffer.concat([
        cpioEntry('./a', SYMLINK, Buffer.from('/tmp')),
        cpioEntry('./a/b', REGULAR, data),
        cpioTrailer,
      ]),
    }),
    code: 'E_RPM_HOSTILE',
    message: /another type/,
  },
  'a link whose target differs from the header': {
    rpm: buildRpm({
      files: [plain('/a', { mode: SYMLINK, target: '/usr' })],
      archive: Buffer.concat([cpioEntry('./a', SYMLINK, Buffer.from('/etc')), cpioTrailer]),
    }),
    code: 'E_RPM_FORMAT',
    message: /points elsewhere/,
  },
  'a link to nowhere': {
    rpm: buildRpm({ files: [plain('/a', { mode: SYMLINK, target: '' })] }),
    code: 'E_RPM_HOSTILE',
    message: /target of its link \/a has 0 bytes/,
  },
  'a link whose target no file system takes': {
    rpm: buildRpm({ files: [plain('/a', { mode: SYMLINK, target: 't'.repeat(4096) })] }),
    code: 'E_RPM_HOSTILE',
    message: /target of its link \/a has 4096 bytes/,
  },
  'a name that no file system takes': {
    rpm: buildRpm({ files: [plain(`/${'n'.repeat(256)}`)] }),
    code: 'E_RPM_HOSTILE',
    message: /has too long a name/,
  },
  'a path that no file system takes': {
    rpm: buildRpm({ files: [plain(`/${'d/'.repeat(2100)}f`)] }),
    code: 'E_RPM_HOSTILE',
    message: /has too long a name/,
  },
  'the same path twice': {
    rpm: buildRpm({ files: [plain('/a'), plain('/a')] }),
    code: 'E_RPM_HOSTILE',
    message: /\/a twice/,
  },
  'the same file twice in the payload': {
    rpm: buildRpm({
      files: [plain('/a')],
      archive: Buffer.concat([
        cpioEntry('./a', REGULAR, data),
        cpioEntry('./a', REGULAR, data),
        cpioTrailer,
      ]),
    }),
    code: 'E_RPM_FORMAT',
    message: /twice/,
  },
  'a file that is larger than the header says': {
    rpm: buildRpm({ files: [plain('/a', { lie: { size: 3 } })] }),
    code: 'E_RPM_HOSTILE',
    message: /7 bytes in the payload, its header says 3/,
  },
  'content that is not what the header says': {
    rpm: buildRpm({ files: [plain('/a', { lie: { digest: 'a'.repeat(64) } })] }),
    code: 'E_RPM_DIGEST',
    message: /\/a is not what its header says/,
  },
  'a file that the payload lacks': {
    rpm: buildRpm({ files: [plain('/a')], archive: cpioTrailer }),
    code: 'E_RPM_FORMAT',
    message: /lacks \/a/,
  },
  'a payload without an end': {
    rpm: buildRpm({ files: [plain('/a')], archive: cpioEntry('./a', REGULAR, data) }),
    code: 'E_RPM_FORMAT',
    message: /cut off/,
  },
  'a bomb: more than a package may unpack to': {
    rpm: buildRpm({ files: [plain('/a', { lie: { size: 2 ** 40 } })] }),
    code: 'E_DISK',
    message: /it would put 1024\.0G on the disk/,
  },
  'a bomb: a gigabyte of zeros in a payload for one byte': {
    rpm: buildRpm({
      files: [plain('/a', { data: Buffer.from('x') })],
      payload: gzipSync(
        Buffer.concat([cpioEntry('./a', REGULAR, Buffer.alloc(1), { size: 2 ** 30 }), zeros()]),
      ),
    }),
    code: 'E_RPM_HOSTILE',
    message: /1073741824 bytes in the payload, its header says 1/,
  },
  'no archive at all': {
    rpm: buildRpm({ files: [plain('/a')], archive: Buffer.alloc(1000) }),
    code: 'E_RPM_FORMAT',
    message: /not a cpio archive/,
  },
  'no compressed data at all': {
    rpm: buildRpm({ files: [plain('/a')], payload: Buffer.from('neither gzip nor cpio') }),
    code: 'E_RPM_FORMAT',
    message: /cannot be decompressed/,
  },
  'a name that is too long for any file system': {
    rpm: buildRpm({
      files: [plain('/a')],
      archive: cpioEntry(`./${'x'.repeat(5000)}`, REGULAR, data),
    }),
    code: 'E_RPM_FORMAT',
    message: /a name of 5003 bytes/,
  },
  '2^31 files': {
    rpm: withTag(buildRpm({ files: [plain('/a')] }), 1117, (entry) =>
      entry.writeUInt32BE(2 ** 31, 12),
    ),
    code: 'E_RPM_FORMAT',
    message: /tag 1117 is not inside the header/,
  },
  'files in folders that are not there': {
    rpm: buildRpm({ files: [plain('/a')], tags: [{ tag: 1116, type: 'int32', values: [7] }] }),
    code: 'E_RPM_FORMAT',
    message: /in no directory/,
  },
  'lists of different lengths': {
    rpm: buildRpm({ files: [plain('/a')], tags: [{ tag: 1030, type: 'int16', values: [1, 2] }] }),
    code: 'E_RPM_FORMAT',
    message: /1 files have 2 modes/,
  },
  'a feature that nobody knows': {
    rpm: buildRpm({
      files: [plain('/a')],
      tags: [{ tag: 1049, type: 'strings', values: ['rpmlib(Magic)'] }],
    }),
    code: 'E_RPM_UNSUPPORTED',
    message: /needs rpmlib\(Magic\)/,
  },
  'a name that would drive a terminal': {
    rpm: buildRpm({ files: [plain('/\u001b[2J/../x')] }),
    code: 'E_RPM_HOSTILE',
    message: /\/\\x1b\[2J\/\.\.\/x/,
  },
  'more tags than a header may have': {
    rpm: withMainIntro((intro) => intro.writeUInt32BE(0x10000000, 8)),
    code: 'E_RPM_FORMAT',
    message: /announces 268435456 tags/,
  },
  'a header larger than may be': {
    rpm: withMainIntro((intro) => intro.writeUInt32BE(0x7fffffff, 12)),
    code: 'E_RPM_FORMAT',
    message: /2147483647 bytes/,
  },
  'a header larger than the file': {
    rpm: withMainIntro((intro) => intro.writeUInt32BE(0x0ffffff0, 12)),
    code: 'E_RPM_FORMAT',
    message: /it is cut off/,
  },
};

function zeros(): Buffer {
  return Buffer.alloc(32 * 1024 * 1024);
}

function mainHeader(bytes: Buffer): number {
  const size = 16 + bytes.readUInt32BE(104) * 16 + bytes.readUInt32BE(108);
  return 96 + Math.ceil(size / 8) * 8;
}

/** Changes the index entry of a tag of the main header, and makes the digests right again. */
function withTag(bytes: Buffer, tag: number, change: (entry: Buffer) => void): Buffer {
  const start = mainHeader(bytes);
  const index = bytes.readUInt32BE(start + 8) * 16;
  const end = start + 16 + index + bytes.readUInt32BE(start + 12);
  for (let at = start + 16; at < start + 16 + index; at += 16) {
    if (bytes.readUInt32BE(at) === tag) change(bytes.subarray(at, at + 16));
  }
  return seal(bytes.subarray(start, end), bytes.subarray(end));
}

function withMainIntro(change: (intro: Buffer) => void): Buffer {
  const bytes = buildRpm({ files: [plain('/a')] });
  change(bytes.subarray(mainHeader(bytes), mainHeader(bytes) + 16));
  return bytes;
}

test('every attack is refused with a reason, and leaves nothing', async (t) => {
  const top = scratch(t);
  const root = join(top, 'root');
  mkdirSync(root);
  t.teardown(() => rmSync(CANARY, { force: true }));
  const names = Object.keys(attacks);
  const jobs = names.map((name, i) => ({
    file: put(top, `${i}.rpm`, attacks[name]!.rpm),
    into: String(i),
  }));
  const outside = lookAt(top, ['root']);
  const results = await unpackAll(t, root, jobs);
  for (const [i, name] of names.entries()) {
    const { code, message } = attacks[name]!;
    const error = results.get(String(i));
    t.is(error?.code, code, `${name}: ${error?.message}`);
    t.regex(error?.message ?? '', message, name);
    t.true(error?.message.startsWith(`${join(top, `${i}.rpm`)}: `), name);
  }
  t.deepEqual(readdirSync(root), []);
  t.false(existsSync(CANARY));
  t.deepEqual(lookAt(top, ['root']), outside);
});

/** Unpacks all; gives the error of each directory's job, where there is one. */
async function unpackAll(
  t: ExecutionContext,
  root: string,
  jobs: readonly { file: string; into: string }[],
): Promise<Map<string, KilnError>> {
  const errors = new Map<string, KilnError>();
  const seen: UnpackResult[] = [];
  const options = { root, policy: 'allow-unsigned', unpackedSize: MAX_SIZE } as const;
  for await (const result of unpackRpms(jobs, options)) {
    seen.push(result);
    if ('error' in result) errors.set(result.job.into, result.error);
  }
  t.is(seen.length, jobs.length);
  return errors;
}

test('headers that rpm does not load are refused', async (t) => {
  const directory = scratch(t);
  const changed = (tag: number, change: (entry: Buffer) => void) =>
    withTag(buildRpm({ files: [plain('/a')] }), tag, change);
  const move = (entry: Buffer, to: number) => entry.writeUInt32BE(to, 8);
  for (const [name, rpm, message] of [
    ['as it is', changed(Tag.name, () => undefined), undefined],
    ['two tags with the same data', changed(Tag.version, (it) => move(it, 0)), /shares data/],
    ['a gap', changed(Tag.name, (it) => move(it, it.readUInt32BE(8) + 1)), /has a gap before it/],
    ['a tag that is none', changed(Tag.name, (it) => it.writeUInt32BE(99)), /tag 99 is not one/],
  ] as const) {
    const file = put(directory, `${name.replaceAll(' ', '-')}.rpm`, rpm);
    const status = message === undefined ? 0 : 1;
    const byRpm = await execa('rpm', ['-qp', '--nosignature', file], { reject: false });
    t.is(byRpm.exitCode, status, `${name}: ${byRpm.stderr}`);
    const { exitCode, stderr } = await kiln('rpm', 'query', file);
    t.is(exitCode, status, `${name}: ${stderr}`);
    if (message !== undefined) t.regex(stderr, message);
  }
});

test('devices, fifos and sockets are left out, and named', async (t) => {
  const directory = scratch(t);
  const files = [
    plain('/dev/null', { mode: 0o020666, data: Buffer.alloc(0) }),
    plain('/dev/sda', { mode: 0o060660, data: Buffer.alloc(0) }),
    plain('/run/fifo', { mode: 0o010600, data: Buffer.alloc(0) }),
    plain('/usr/file'),
  ];
  const file = put(directory, 'devices.rpm', buildRpm({ files }));
  const { stdout, exitCode } = await kiln('rpm', 'unpack', '--json', '-C', `${directory}/x`, file);
  t.is(exitCode, 0);
  const { warnings } = JSON.parse(stdout) as { warnings: string[] };
  t.deepEqual(
    warnings.map((warning) => warning.split(' is a ')),
    [
      ['/dev/null', 'char: not made'],
      ['/dev/sda', 'block: not made'],
      ['/run/fifo', 'fifo: not made'],
    ],
  );
  t.deepEqual(Object.keys(lookAt(`${directory}/x`)), ['usr', 'usr/file']);
});

test('a package that is cut anywhere is refused, and leaves nothing', async (t) => {
  const root = scratch(t);
  const directory = scratch(t);
  const bytes = readFileSync(fixture('RPMS-v4-rpm-basic'));
  const header = mainHeader(bytes);
  const boundaries = [0, 4, 95, 96, 112, header - 1, header, header + 16, bytes.length - 1];
  for (let at = header; at < bytes.length; at += 997) boundaries.push(at);
  const jobs = boundaries.map((length) => ({
    file: put(directory, `${length}`, bytes.subarray(0, length)),
    into: String(length),
  }));
  const errors = await unpackAll(t, root, jobs);
  t.is(errors.size, new Set(boundaries).size);
  for (const error of errors.values()) t.regex(error.code, /^E_RPM_(FORMAT|DIGEST)$/);
  t.deepEqual(readdirSync(root), []);
});

test('any damage gives an error of the package, and never a crash', async (t) => {
  const root = scratch(t);
  const directory = scratch(t);
  const originals = [
    'payload-test-0.1-w3.zstdio',
    'RPMS-v6-rpm-file-attrs',
    'simple-1.0.1',
    'w9.bzdio',
  ];
  const seed = Date.now();
  const change = fc.tuple(
    fc.nat(originals.length - 1),
    fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.nat(255)), {
      ...{ minLength: 1, maxLength: 4 },
    }),
  );
  const sources = originals.map((name) => readFileSync(fixture(name)));
  const jobs = fc.sample(change, { numRuns: 400, seed }).map(([which, changes], i) => {
    const bytes = Buffer.from(sources[which]!);
    for (const [place, value] of changes) bytes[Math.floor(place * (bytes.length - 1))] = value;
    return { file: put(directory, `${i}.rpm`, bytes), into: String(i) };
  });
  const errors = await unpackAll(t, root, jobs);
  t.true(errors.size > 100, `seed ${seed}`);
  for (const error of errors.values()) {
    t.regex(error.code, /^E_RPM_/, `seed ${seed}: ${error.message}`);
  }
  t.deepEqual(
    readdirSync(root).filter((name) => errors.has(name)),
    [],
  );
});
