/** SBOM, provenance and checksums, against sha256sum, openssl, jq and rpm. */
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import type { KilnError } from '../../src/errors.ts';
import { ownPath } from '../../src/host/files/held.ts';
import type { BuildReport, BuiltPackage } from '../../src/jobs/rpmbuild/outcome/report.ts';
import { spdxLicense } from '../../src/jobs/rpmbuild/provenance/spdx.ts';
import { readSigningKey } from '../../src/jobs/rpmbuild/provenance/statement.ts';
import {
  type AttestInput,
  attestBuild,
  checksumManifest,
  digestFiles,
} from '../../src/jobs/rpmbuild/provenance/write.ts';
import type { LockedPackage } from '../../src/packages/repository/lock/lock.ts';
import { readRpm } from '../../src/packages/rpm/read.ts';
import { buildPackages, temporaryDirectory } from '../repository/rpm-repository.ts';
import { spdxSchema } from './spdx-schema.ts';

const locked = (name: string, more: Partial<LockedPackage> = {}): LockedPackage => ({
  nevra: `${name}-1.0-1.x86_64`,
  name,
  epoch: 0,
  version: '1.0',
  release: '1',
  arch: 'x86_64',
  digest: `sha256:${Buffer.from(name.padEnd(32)).toString('hex')}`,
  size: 1,
  location: `${name}.rpm`,
  repository: 'base',
  ...more,
});

const ROOT = [locked('zlib+'), locked('gcc', { epoch: 2 }), locked('bash', { version: '5~rc1' })];

/** Two packages by rpmbuild, and what a build's report says of them. */
let rpms: string;
let packages: readonly BuiltPackage[];
test.before(async () => {
  rpms = await mkdtemp(join(tmpdir(), 'kiln-provenance-'));
  await buildPackages(rpms, [
    { name: 'tool', version: '2', epoch: 1, files: { '/usr/bin/tool': 'x' } },
    { name: 'tool-doc', version: '2' },
  ]);
  const built: BuiltPackage[] = [];
  for (const file of await readdir(rpms)) {
    const path = join(rpms, file);
    const sha256 = (await execa('sha256sum', [path])).stdout.slice(0, 64);
    const identity = await readRpm(path);
    built.push({ file, nevra: file, isSource: false, sha256, size: 1, identity });
  }
  packages = built;
});
test.after.always(() => rm(rpms, { recursive: true, force: true }));

async function built(t: ExecutionContext) {
  const directory = join(await temporaryDirectory(t), 'result');
  await cp(rpms, directory, { recursive: true });
  await writeFile(join(directory, 'build.log'), 'made it\n');
  const request: BuildReport['request'] = {
    image: '/home/somebody/recipes/build-root.yaml',
    source: { kind: 'srpm', path: ownPath('/home/somebody/tool-2-1.src.rpm') },
    resultDirectory: ownPath(directory),
    caller: { uid: 0, gid: 0 },
    defines: ['dist .k1'],
    repositories: [
      {
        id: 'more',
        name: 'more',
        source: { kind: 'baseurl', urls: ['https://user:secret@example.org/more'] },
        gpgcheck: true,
        repoGpgcheck: false,
        gpgkey: ['/etc/key'],
        priority: 99,
        cost: 1000,
        excludepkgs: [],
        includepkgs: [],
        moduleHotfixes: false,
        metadataExpire: 0,
      },
    ],
  };
  const input: AttestInput = {
    report: {
      name: 'tool',
      exitStatus: 0,
      failure: undefined,
      failedPhase: undefined,
      lastLines: [],
      request,
      resultDirectory: ownPath(directory),
      sourceDigest: undefined,
      started: new Date('2026-11-24T10:00:00Z'),
      phases: [{ name: 'build', start: 1000, duration: 2500 }],
      packages,
      sourcePackage: undefined,
      buildRequires: ['gcc', 'bash'],
      base: { id: 'a'.repeat(64), name: 'build-root' },
      image: { id: 'b'.repeat(64), name: 'build-root', arch: 'x86_64' },
      sandbox: 'e0fa632c6b',
      kept: false,
      end: undefined,
      limitHit: null,
      usage: {} as AttestInput['report']['usage'],
      measured: undefined,
      artifacts: [],
      warnings: [],
      egress: [],
    },
    root: ROOT,
    sources: [{ name: 'tool-2-1.src.rpm', sha256: 'c'.repeat(64) }],
    byproducts: await digestFiles(directory, ['build.log']),
    kiln: '9.9',
  };
  return { directory, input };
}

async function write(directory: string, input: AttestInput): Promise<void> {
  for (const { name, content } of attestBuild(input)) {
    await writeFile(join(directory, name), content);
  }
}

/** jq's answer, as text. */
async function ask(file: string, program: string): Promise<string> {
  return (await execa('jq', ['-r', program, file])).stdout;
}

test('SHA256SUMS is what sha256sum writes, whatever the names of files', async (t) => {
  const directory = await temporaryDirectory(t);
  await mkdir(join(directory, 'sub'));
  const names = ['b.rpm', 'a b', 'sub/c', 'new\nline', 'back\\slash', 'car\rriage', 'ünï', '-n'];
  for (const name of names) await writeFile(join(directory, name), name);
  const manifest = checksumManifest(await digestFiles(directory, names));
  const shell = 'find . -type f -printf "%P\\0" | sort -z | xargs -0 sha256sum --';
  const env = { LC_ALL: 'C' };
  const { stdout } = await execa('sh', ['-c', shell], { cwd: directory, env, encoding: 'buffer' });
  t.deepEqual(manifest.toString('latin1').trim(), Buffer.from(stdout).toString('latin1').trim());
  await writeFile(join(directory, 'SHA256SUMS'), manifest);
  await execa('sha256sum', ['--strict', '-c', 'SHA256SUMS'], { cwd: directory });
  await writeFile(join(directory, 'b.rpm'), 'changed');
  await t.throwsAsync(execa('sha256sum', ['-c', 'SHA256SUMS'], { cwd: directory }));
});

test('a missing file gets no digest, but an error', async (t) => {
  const directory = await temporaryDirectory(t);
  const error = await t.throwsAsync<KilnError>(digestFiles(directory, ['gone.rpm']));
  t.is(error?.code, 'E_RESULTDIR');
});

test('the SBOM has what rpm says of each package, and names the whole build root', async (t) => {
  const { directory, input } = await built(t);
  await write(directory, input);
  const sbom = join(directory, 'sbom.spdx.json');
  for (const { file, sha256 } of input.report.packages) {
    const format = '%{NAME} %|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE} %{LICENSE}';
    const { stdout: rpm } = await execa('rpm', ['-qp', '--qf', format, join(directory, file)]);
    const entry = `.packages[] | select(.packageFileName == "${file}")`;
    const said = await ask(sbom, `${entry} | "\\(.name) \\(.versionInfo) \\(.licenseDeclared)"`);
    t.is(said, rpm);
    t.is(await ask(sbom, `${entry} | .checksums[0].checksumValue`), sha256);
  }
  t.is(
    await ask(sbom, '[.packages[].externalRefs[0]?.referenceLocator | values] | sort | join(" ")'),
    [
      ...['pkg:rpm/bash@5~rc1-1?arch=x86_64', 'pkg:rpm/gcc@1.0-1?arch=x86_64&epoch=2'],
      ...['pkg:rpm/tool-doc@2-1?arch=noarch', 'pkg:rpm/tool@2-1?arch=noarch&epoch=1'],
      'pkg:rpm/zlib%2B@1.0-1?arch=x86_64',
    ].join(' '),
  );
  const document = JSON.parse(await readFile(sbom, 'utf8'));
  const valid = new Ajv2020({ allErrors: true }).compile(spdxSchema);
  t.true(valid(document), JSON.stringify(valid.errors));
  t.false(valid({ ...document, files: [], comment: 1 }));
  for (const wrong of [
    { downloadLocation: undefined },
    { SPDXID: 'SPDXRef-a b' },
    { supplier: 'me' },
    { checksums: [{ algorithm: 'CRC', checksumValue: '00' }] },
    { epoch: 1 },
  ]) {
    const [first, ...others] = document.packages;
    const text = JSON.stringify({ ...document, packages: [{ ...first, ...wrong }, ...others] });
    t.false(valid(JSON.parse(text)), JSON.stringify(wrong));
  }
  // What SPDX 2.3 asks of every document: the required fields, ids that are unique and lead somewhere.
  const checks = [
    '.spdxVersion == "SPDX-2.3" and .dataLicense == "CC0-1.0" and .SPDXID == "SPDXRef-DOCUMENT"',
    '.documentNamespace | test("^https://[^#]+$")',
    '.creationInfo.created == "2026-11-24T10:00:03Z" and .creationInfo.creators == ["Tool: kiln-9.9"]',
    '[.packages[] | .name and .SPDXID and .downloadLocation and .filesAnalyzed == false] | all',
    '[.packages[].SPDXID] | (unique | length) == length and all(test("^SPDXRef-[A-Za-z0-9.-]+$"))',
    '([.packages[].SPDXID] + [.SPDXID]) as $ids | [.relationships[] | .spdxElementId, .relatedSpdxElement] | all(. as $id | $ids | index($id) != null)',
    '[.packages[] | .primaryPackagePurpose] - ["CONTAINER", "INSTALL", "SOURCE"] == []',
    '[.relationships[] | select(.relationshipType == "DESCRIBES")] | length == 2',
    '[.relationships[] | select(.relationshipType == "CONTAINS")] | length == 3',
  ];
  for (const check of checks) t.is(await ask(sbom, check), 'true', check);
});

test('SPDX expressions are kept as licenses, and other texts word by word', (t) => {
  for (const tag of [
    'MIT',
    'GPL-2.0-or-later WITH GCC-exception-3.1',
    '(MIT OR Apache-2.0) AND Zlib',
  ]) {
    t.deepEqual(spdxLicense(tag), { expression: tag });
  }
  for (const tag of [
    'GPLv2+ and BSD',
    'Public Domain',
    'LicenseRef-Fedora-Public-Domain',
    'MIT AND',
  ]) {
    const { expression, extracted } = spdxLicense(tag);
    t.regex(expression, /^LicenseRef-[a-zA-Z0-9.-]+$/);
    t.deepEqual(extracted, { licenseId: expression, extractedText: tag });
  }
  t.deepEqual(spdxLicense(' '), { expression: 'NOASSERTION' });
  t.regex(spdxLicense('('.repeat(100_000)).expression, /^LicenseRef-/);
});

test('the provenance is an in-toto statement without secrets and paths', async (t) => {
  const { directory, input } = await built(t);
  await write(directory, input);
  const file = join(directory, 'provenance.json');
  const checks = [
    '._type == "https://in-toto.io/Statement/v1" and .predicateType == "https://slsa.dev/provenance/v1"',
    '.predicate.buildDefinition | .buildType and (.externalParameters | type) == "object"',
    '.predicate.runDetails.builder.id | test("^https://")',
    '.predicate.runDetails.metadata | .startedOn == "2026-11-24T10:00:00.000Z" and .finishedOn == "2026-11-24T10:00:03.500Z" and .invocationId == "e0fa632c6b"',
    '[.predicate.buildDefinition.resolvedDependencies[].digest.sha256 | length == 64] | all and length == 4',
    '.predicate.buildDefinition.externalParameters.source == {kind: "srpm", name: "tool-2-1.src.rpm"}',
    '.predicate.runDetails.byproducts[0].name == "build.log"',
  ];
  for (const check of checks) t.is(await ask(file, check), 'true', check);
  const sums = await ask(file, '.subject[] | "\\(.digest.sha256)  \\(.name)"');
  await execa('sha256sum', ['--strict', '-c', '-'], { cwd: directory, input: `${sums}\n` });
  const text = await readFile(file, 'utf8');
  t.notRegex(text, /secret|somebody/);
  t.deepEqual(
    (await readdir(directory)).filter((name) => name.includes('intoto')),
    [],
    'nothing that looks signed without a key',
  );
});

const KEYS: Record<string, readonly string[]> = {
  ed25519: ['-algorithm', 'ed25519'],
  'P-256': ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256'],
  'P-384': ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-384'],
};
for (const [kind, options] of Object.entries(KEYS)) {
  test(`openssl verifies the envelope: ${kind}`, async (t) => {
    const { directory, input } = await built(t);
    const [key, pub] = [join(directory, 'key.pem'), join(directory, 'pub.pem')];
    await execa('openssl', ['genpkey', ...options, '-out', key]);
    await execa('openssl', ['pkey', '-in', key, '-pubout', '-out', pub]);
    await write(directory, { ...input, key: await readSigningKey(key) });
    const file = join(directory, 'provenance.intoto.jsonl');
    // By the DSSE specification, put together by the shell alone.
    const script = `set -e
      jq -r .payload "$1" | base64 -d > payload
      jq -r '.signatures[0].sig' "$1" | base64 -d > signature
      type=$(jq -r .payloadType "$1")
      printf 'DSSEv1 %d %s %d ' "\${#type}" "$type" "$(stat -c %s payload)" > message
      cat payload >> message
      openssl pkey -pubin -in pub.pem -outform DER | sha256sum | cut -c1-64`;
    const { stdout: keyId } = await execa('sh', ['-c', script, 'sh', file], { cwd: directory });
    t.is(await ask(file, '.signatures[0].keyid'), keyId);
    const payload = await readFile(join(directory, 'payload'), 'utf8');
    t.is(payload, await readFile(join(directory, 'provenance.json'), 'utf8'));
    const verify = () =>
      kind === 'ed25519'
        ? [
            'pkeyutl',
            '-verify',
            '-pubin',
            '-inkey',
            'pub.pem',
            '-rawin',
            '-in',
            'message',
            '-sigfile',
            'signature',
          ]
        : [
            'dgst',
            kind === 'P-256' ? '-sha256' : '-sha384',
            '-verify',
            'pub.pem',
            '-signature',
            'signature',
            'message',
          ];
    await execa('openssl', verify(), { cwd: directory });
    await writeFile(join(directory, 'message'), 'another');
    await t.throwsAsync(execa('openssl', verify(), { cwd: directory }));
  });
}

test('keys that cannot sign are refused', async (t) => {
  const directory = await temporaryDirectory(t);
  const rsa = join(directory, 'rsa.pem');
  await execa('openssl', ['genpkey', '-algorithm', 'RSA', '-out', rsa]);
  const locked = join(directory, 'locked.pem');
  await execa('openssl', [
    ...['genpkey', '-algorithm', 'ed25519', '-aes256', '-pass', 'pass:x', '-out', locked],
  ]);
  for (const path of [rsa, locked, join(directory, 'none.pem')]) {
    const error = await t.throwsAsync<KilnError>(readSigningKey(path));
    t.is(error?.code, 'E_PROVENANCE_KEY', path);
    t.truthy(error?.hint);
  }
});

test('with SOURCE_DATE_EPOCH, the same build gives the same bytes', async (t) => {
  const { directory, input } = await built(t);
  await writeFile(join(directory, 'build.log'), 'made it at another time\n');
  const other: AttestInput = {
    ...input,
    byproducts: await digestFiles(directory, ['build.log']),
    root: [...ROOT].reverse(),
    report: {
      ...input.report,
      started: new Date('2027-01-01T00:00:00Z'),
      phases: [],
      sandbox: 'another',
      packages: [...input.report.packages].reverse(),
      buildRequires: [...input.report.buildRequires].reverse(),
    },
  };
  const epoch = { sourceDateEpoch: 1_700_000_000 };
  const one = attestBuild({ ...input, ...epoch });
  t.deepEqual(attestBuild({ ...other, ...epoch }), one);
  t.notDeepEqual(attestBuild(other), attestBuild(input));
  t.regex(String(one[0]?.content), /"created": "2023-11-14T22:13:20Z"/);
});
