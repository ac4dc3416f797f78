import { createHash } from 'node:crypto';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { KilnError } from '../../src/errors.ts';
import { runConfined } from '../../src/host/confine/run.ts';
import { parseRepomd } from '../../src/packages/repository/metadata/index-task.ts';
import {
  ModulesParser,
  moduleMetadataSchema,
} from '../../src/packages/repository/metadata/modules-task.ts';
import { repomdSchema } from '../../src/packages/repository/metadata/read-index.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { damagedText } from './damage.ts';

/** What lengthens, closes and opens: where parsers of XML break. */
const PIECES: readonly string[] = [
  ...['<', '>', '/>', '</', '"', "'", '&', '&#0;', '&#x110000;', '&lt;', '&e;', '<![CDATA[', ']]>'],
  ...['<!DOCTYPE a [<!ENTITY e "e">]>', '<!--', '-->', '<?xml version="1.1"?>', '\0', '\ufffe'],
  ...['../', '/etc/passwd', 'http://a/', 'file:///', '-1', '1e9', '99999999999999999999', '%00'],
  ...['sha1', 'md5', '__proto__', 'constructor', 'xmlns:rpm="a"', '\u202e', '\ud800'],
];

const DIGEST = 'a'.repeat(64);
const REPOMD = `<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo" xmlns:rpm="http://linux.duke.edu/metadata/rpm">
  <revision>1700000000</revision>
  <data type="primary">
    <checksum type="sha256">${DIGEST}</checksum><open-checksum type="sha256">${DIGEST}</open-checksum>
    <location href="repodata/primary.xml.zst"/><timestamp>1</timestamp><size>10</size><open-size>20</open-size>
  </data>
  <data type="filelists">
    <checksum type="sha512">${DIGEST}${DIGEST}</checksum><location href="repodata/f.xml.gz"/><size>10</size>
  </data>
  <data type="group"><checksum type="sha256">${DIGEST}</checksum><location href="repodata/comps.xml"/><size>10</size></data>
</repomd>`;

test('any repomd.xml is refused, or gives what the rest of kiln relies on', (t) => {
  let read = 0;
  fc.assert(
    fc.property(fc.oneof(damagedText(REPOMD, PIECES), fc.string()), (text) => {
      try {
        const repomd = repomdSchema.parse(parseRepomd(text));
        read++;
        for (const { location, digest, size } of [
          repomd.primary,
          repomd.filelists,
          repomd.group,
        ].filter((it) => it !== undefined)) {
          // Below the repository, by no other route, or a URL; checked by a digest; bounded.
          if (!/^sha(256|384|512):[0-9a-f]{64,128}$/.test(digest)) return false;
          if (size !== undefined && size > 2 ** 40) return false;
          if (/^(https?|file):\/\//.test(location)) continue;
          const { pathname, origin } = new URL(location, 'http://mirror.invalid/repo/');
          if (origin !== 'http://mirror.invalid' || !pathname.startsWith('/repo/')) return false;
        }
        return true;
      } catch (error) {
        return error instanceof KilnError && error.code === 'E_REPOSITORY_METADATA';
      }
    }),
    { numRuns: 3000, examples: [[REPOMD]] },
  );
  t.true(read > 100, String(read));
});

const PRIMARY = `<?xml version="1.0" encoding="UTF-8"?>
<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="1">
<package type="rpm"><name>a</name><arch>noarch</arch><version epoch="0" ver="1" rel="1"/>
<checksum type="sha256" pkgid="YES">${DIGEST}</checksum><summary>s</summary><description>d</description>
<packager/><url/><time file="1" build="1"/><size package="1" installed="2" archive="3"/>
<location href="a-1-1.noarch.rpm"/><format><rpm:license>MIT</rpm:license><rpm:group>g</rpm:group>
<rpm:header-range start="1" end="2"/><rpm:provides><rpm:entry name="a" flags="EQ" epoch="0" ver="1" rel="1"/></rpm:provides>
<rpm:requires><rpm:entry name="(b if c)"/><rpm:entry name="d" flags="GE" ver="2" pre="1"/></rpm:requires>
<file type="dir">/a</file></format></package></metadata>`;

/** One line each differs in, and which is well-formed all the same. */
const EXAMPLES: readonly string[] = [
  PRIMARY,
  PRIMARY.replace('<summary>s<', '<summary>&lt;\u202e../<'),
  PRIMARY.replace('(b if c)', '(b if'),
];

test('any primary.xml is read by libsolv in its child, or refused, without a crash', async (t) => {
  t.timeout(240_000 * PATIENCE);
  const directory = await mkdtemp(join(tmpdir(), 'kiln-fuzz-primary-'));
  t.teardown(() => rm(directory, { recursive: true }));
  let read = 0;
  await fc.assert(
    fc.asyncProperty(damagedText(PRIMARY, PIECES), async (text) => {
      const [source, target] = [join(directory, 'primary.xml'), join(directory, 'out')];
      writeFileSync(source, text);
      writeFileSync(target, '');
      const fds = [openSync(target, 'r+'), openSync(source, 'r')];
      const digest = `sha256:${createHash('sha256').update(text).digest('hex')}`;
      const primary = {
        ...{ type: 'primary', location: 'primary.xml', compression: 'none', digest },
        size: Buffer.byteLength(text),
      };
      try {
        const task = runConfined({
          ...{ task: 'solver-convert', input: { kind: 'primary', file: primary }, fds },
          validate: (value) => value,
          limits: { wallMs: 20_000, cpuSeconds: 10 },
        });
        for await (const _ of task) read++;
        return true;
      } catch (error) {
        if (error instanceof KilnError && /^E_(SOLVER|REPOSITORY)/.test(error.code)) return true;
        throw new Error(`${text}`, { cause: error });
      } finally {
        fds.forEach(closeSync);
      }
    }),
    { numRuns: 25, examples: EXAMPLES.map((it): [string] => [it]) },
  );
  // Those which are read for sure; of the damaged ones, chance may leave none.
  t.true(read >= EXAMPLES.length, String(read));
});

test('any modules.yaml gives streams whose names fit into dependencies, or an error', (t) => {
  let read = 0;
  const words = fc.constantFrom(
    ...[
      'document: modulemd\n',
      'version: 2\n',
      'data:\n',
      '  name: a\n',
      '  stream: "1"\n',
      '---\n',
    ],
    ...[
      '  artifacts:\n    rpms:\n',
      '    - a-0:1-1.noarch\n',
      '  dependencies:\n',
      '  - requires:\n',
    ],
    ...[
      '      platform: [a, -b]\n',
      '&a [*a]\n',
      '!!js/function x\n',
      '{[',
      '"\\u0000"',
      '- ',
      '? ',
    ],
  );
  fc.assert(
    fc.property(fc.array(fc.oneof(words, fc.string())), (parts) => {
      const parser = new ModulesParser();
      try {
        for (const part of parts) parser.write(Buffer.from(part));
        const { streams } = moduleMetadataSchema.parse(parser.end());
        read += streams.length;
        return streams.every(({ name, stream }) => !/[\s:()]/.test(name + stream));
      } catch (error) {
        return error instanceof KilnError && error.code === 'E_REPOSITORY_METADATA';
      }
    }),
    {
      numRuns: 2000,
      examples: [[['document: modulemd\nversion: 2\ndata: {name: a, stream: 1}\n']]],
    },
  );
  t.true(read > 0, String(read));
});
