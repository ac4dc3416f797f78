import { hash } from 'node:crypto';
import { chmodSync, linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { fc } from '@fast-check/ava';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { CpioParser, type CpioVisitor } from '../../src/packages/rpm/payload/cpio.ts';
import { readRpm } from '../../src/packages/rpm/read.ts';
import { unpackRpms } from '../../src/packages/rpm/unpack.ts';
import { put, scratch } from './fixtures.ts';
import { buildRpm, cpioEntry, cpioTrailer, honestArchive, type TestRpm } from './rpm-builder.ts';
import { lookAt } from './tree.ts';

/** Packs a tree with rpmbuild; returns the package's path. */
async function rpmbuild(t: ExecutionContext, tree: string, spec: string, payload = 'w1.gzdio') {
  const top = scratch(t);
  const file = join(top, 'test.spec');
  const head = 'Name: test\nVersion: 1\nRelease: 1\nSummary: test\nLicense: x\nBuildArch: noarch\n';
  const copy = `%install\nmkdir -p %{buildroot}\ncp -a ${tree}/. %{buildroot}/\n`;
  writeFileSync(file, `${head}%description\n${copy}${spec}`);
  const defines = {
    _topdir: top,
    _binary_payload: payload,
    __os_install_post: '%{nil}',
    _build_id_links: 'none',
  };
  const options = Object.entries(defines).flatMap(([name, value]) => ['-D', `${name} ${value}`]);
  await execa('rpmbuild', ['-bb', '--quiet', ...options, file]);
  return join(top, 'RPMS/noarch/test-1-1.noarch.rpm');
}

/** Content larger than any buffer on the way, half of it compressible, and many small files. */
function makeTree(directory: string): void {
  const noise = (length: number, seed: number) => {
    const bytes = Buffer.alloc(length);
    let state = seed;
    for (let i = 0; i < length; i += 1) {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      bytes[i] = i % 8192 < 4096 ? state >>> 24 : 65;
    }
    return bytes;
  };
  const top = join(directory, 'opt');
  mkdirSync(top);
  writeFileSync(join(top, 'large'), noise(5 * 1024 * 1024 + 3, 1));
  writeFileSync(join(top, 'empty'), '');
  for (let i = 0; i < 300; i += 1) {
    const folder = join(top, `d${i % 7}`);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `f${i}`), noise(i * 97, i));
    chmodSync(join(folder, `f${i}`), 0o600 + (i % 64));
  }
  linkSync(join(top, 'large'), join(top, 'again'));
  linkSync(join(top, 'empty'), join(top, 'nothing'));
  symlinkSync('../large', join(top, 'd1/link'));
}

const payloads = ['w9.gzdio', 'w9.bzdio', 'w2.xzdio', 'w2.lzdio', 'w3.zstdio', 'w.ufdio'];

for (const payload of payloads) {
  test(`a payload of many pieces comes out unchanged: ${payload}`, async (t) => {
    const tree = scratch(t);
    makeTree(tree);
    const file = await rpmbuild(t, tree, '%files\n/opt\n', payload);
    const root = scratch(t);
    const jobs = [{ file, into: 'x' }];
    for await (const result of unpackRpms(jobs, { root, policy: 'allow-unsigned' })) {
      if ('error' in result) throw result.error;
    }
    t.deepEqual(lookAt(join(root, 'x')), lookAt(tree));
  });
}

test('every kind of scriptlet and trigger is read as rpmbuild wrote it', async (t) => {
  const tree = scratch(t);
  writeFileSync(join(tree, 'file'), '');
  const file = await rpmbuild(
    t,
    tree,
    `%pretrans -p <lua>
print("pretrans")
%post -e -p /bin/bash
echo %%{name}
%preun -p /sbin/ldconfig
%preuntrans
echo preuntrans
%postuntrans
echo postuntrans
%triggerprein -- foo >= 1:2-3
echo triggerprein
%triggerin -p /usr/bin/perl -- bar, baz < 5
print "triggerin"
%triggerpostun -- old
echo triggerpostun
%filetriggerin -P 2000 -- /usr/lib /lib
echo filetriggerin
%transfiletriggerpostun -p <lua> -- /etc
print("transfiletriggerpostun")
%files
/file
`,
  );
  const rpm = await readRpm(file);
  const plain = { expand: false, queryFormat: false, lua: false };
  t.like(
    rpm.scriptlets.map(({ kind, body, ...rest }) => ({ kind, body: body.trim(), ...rest })),
    [
      { ...plain, kind: 'pretrans', body: 'print("pretrans")', interpreter: ['<lua>'], lua: true },
      {
        ...{ ...plain, kind: 'postin', body: 'echo %{name}', interpreter: ['/bin/bash'] },
        expand: true,
      },
      { ...plain, kind: 'preuntrans', body: 'echo preuntrans', interpreter: ['/bin/sh'] },
      { ...plain, kind: 'preun', body: '', interpreter: ['/sbin/ldconfig'] },
      { ...plain, kind: 'postuntrans', body: 'echo postuntrans', interpreter: ['/bin/sh'] },
    ],
  );
  const shown = rpm.triggers.map(({ kind, body, interpreter, conditions }) => ({
    ...{ kind, body: body.trim(), interpreter },
    on: conditions.map(({ name, operator, version }) => `${name}${operator}${version}`),
  }));
  t.deepEqual(shown, [
    {
      ...{ kind: 'triggerprein', body: 'echo triggerprein', interpreter: ['/bin/sh'] },
      on: ['foo>=1:2-3'],
    },
    {
      ...{ kind: 'triggerin', body: 'print "triggerin"', interpreter: ['/usr/bin/perl'] },
      on: ['bar', 'baz<5'],
    },
    {
      ...{ kind: 'triggerpostun', body: 'echo triggerpostun', interpreter: ['/bin/sh'] },
      on: ['old'],
    },
  ]);
  t.deepEqual(
    rpm.fileTriggers.map(({ kind, scope, priority, prefixes, lua }) => ({
      ...{ kind, scope, priority, prefixes, lua },
    })),
    [
      {
        ...{ kind: 'filetriggerin', scope: 'package', priority: 2000, lua: false },
        prefixes: ['/lib', '/usr/lib'],
      },
      {
        ...{ kind: 'filetriggerpostun', scope: 'transaction', priority: 1000000, lua: true },
        prefixes: ['/etc'],
      },
    ],
  );
});

test('an archive means the same in pieces of any size', (t) => {
  const entries = [0, 1, 3, 4, 5, 4096, 5000].map((length, i) => ({
    name: `./${'n'.repeat(i)}`,
    data: Buffer.alloc(length, i),
  }));
  const archive = Buffer.concat([
    ...entries.map(({ name, data }) => cpioEntry(name, 0o100644, data)),
    cpioTrailer,
    Buffer.alloc(700),
  ]);
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 600 }), { minLength: 1 }), (sizes) => {
      const seen: { name: string; data: Buffer[] }[] = [];
      let ended = 0;
      const visitor: CpioVisitor = {
        begin(entry) {
          if (entry.kind !== 'named') throw new Error('not named');
          seen.push({ name: entry.name.toString(), data: [] });
          return entry.size;
        },
        data: (piece) => void seen.at(-1)!.data.push(Buffer.from(piece)),
        end() {
          ended += 1;
        },
      };
      const parser = new CpioParser(visitor);
      for (let at = 0, i = 0; at < archive.length; i += 1) {
        const size = sizes[i % sizes.length]!;
        // A buffer that is overwritten afterwards, as decoders do.
        const piece = Buffer.from(archive.subarray(at, at + size));
        parser.push(piece);
        piece.fill(0xff);
        at += size;
      }
      parser.finish();
      t.is(ended, entries.length);
      t.deepEqual(
        seen.map(({ name, data }) => ({ name, data: Buffer.concat(data) })),
        entries,
      );
    }),
    { numRuns: 50 },
  );
});

async function unpackBuilt(t: ExecutionContext, rpm: TestRpm) {
  const root = scratch(t);
  const jobs = [{ file: put(root, 'test.rpm', buildRpm(rpm)), into: 'x' }];
  const options = { root, policy: 'allow-unsigned', unpackedSize: 1024 * 1024 } as const;
  for await (const result of unpackRpms(jobs, options)) if ('error' in result) throw result.error;
  return lookAt(join(root, 'x'));
}

test('a payload of many zstd frames is read to its end', async (t) => {
  const files = [{ path: '/a', mode: 0o100644, data: Buffer.alloc(300000, 'abc') }];
  const archive = honestArchive(files);
  const skippable = Buffer.from('502a4d1804000000aabbccdd', 'hex');
  const frames = [
    archive.subarray(0, 1000),
    archive.subarray(1000, 200000),
    archive.subarray(200000),
  ];
  const payload = Buffer.concat(frames.flatMap((part) => [skippable, zstdCompressSync(part)]));
  const seen = await unpackBuilt(t, { files, compressor: 'zstd', payload });
  t.is(seen.a?.content, hash('sha256', files[0]!.data, 'hex'));
});

test('hard links may all carry the content, and are files if it differs', async (t) => {
  const file = (path: string, text: string) => ({
    ...{ path, mode: 0o100644, data: Buffer.from(text), inode: 7 },
  });
  const files = [file('/a', 'same'), file('/b', 'same'), file('/c', 'other')];
  const seen = await unpackBuilt(t, { files });
  t.deepEqual(
    Object.entries(seen).map(([path, { content }]) => [path, content]),
    files.map(({ path, data }) => [path.slice(1), hash('sha256', data, 'hex')]),
  );
});

test('links that repeat their content count fully against the size limit', async (t) => {
  const data = Buffer.alloc(600 * 1024);
  const files = ['/a', '/b'].map((path) => ({ path, mode: 0o100644, data, inode: 7 }));
  await t.throwsAsync(unpackBuilt(t, { files }), { code: 'E_RPM_HOSTILE', message: /more than/ });
});
