import { copyFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { ensureSources } from '../../../fixtures/sources/ensure.ts';
import { openEngine } from '../../../src/engine.ts';
import { ownPath } from '../../../src/host/files/held.ts';
import { buildPackage } from '../../../src/jobs/rpmbuild/build.ts';
import type { BuildRequest } from '../../../src/jobs/rpmbuild/request.ts';
import { verifyBuild } from '../../../src/jobs/verify/verify.ts';
import { PATIENCE } from '../../support/busybox-state.ts';
import { long } from '../../support/long.ts';
import { makeKey, rpmkeys } from '../signing-keys.ts';
import {
  type BuildState,
  buildState,
  leftovers,
  resultFile,
  sourcePackage,
} from './build-state.ts';

let state: BuildState;

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  state = await buildState('all');
});
test.after.always(() => state[Symbol.asyncDispose]());

test.serial('a build that depends on nothing around it is reproducible', async (t) => {
  const parts = {
    name: 'steady',
    preamble: 'BuildRequires: tool-a',
    // The second build has the first one's directory.
    install: '(tool-a; pwd) > %{buildroot}/usr/share/steady/said',
  };
  const path = await sourcePackage(await state.fresh(), parts);
  const keys = await state.fresh();
  const key = await makeKey(keys, 'ed25519');
  const signKey = ownPath(key.secret);
  const report = await verifyBuild(state.images.engine, await state.request(path, { signKey }));
  t.is(report.exitStatus, 0, report.failure?.stack);
  t.deepEqual(report.differences, []);
  const directory = report.resultDirectory;
  for (const { file } of [...report.packages, report.sourcePackage!]) {
    const { ok, text } = await rpmkeys(keys, join(directory, file), [key.public]);
    t.true(ok, text);
    t.regex(text, /Header V4 EdDSA/);
  }
  t.is(report.phases.at(-1)?.name, 'sign');
  await execa('sha256sum', ['-c', '--quiet', 'SHA256SUMS'], { cwd: directory });
  t.deepEqual(await leftovers(state), []);
});

test.serial('differences are reported file by file', async (t) => {
  const to = '%{buildroot}/usr/share/shaky';
  const parts = {
    name: 'shaky',
    install: `hostname > ${to}/host; pwd > ${to}/folder; date +%%Z > ${to}/zone; echo %{_smp_build_ncpus} > ${to}/jobs; date +%%s%%N > ${to}/time; date +%%s > ${to}/second; mkdir names; (cd names; touch $(seq -f entry-%%g 200); find . > ${to}/order; stat -fc %%T . > ${to}/files); echo same > ${to}/same; touch ${to}/only-$(hostname); ln -s $(pwd) ${to}/link`,
    sections: '%post\necho built in %{_builddir}',
  };
  const path = await sourcePackage(await state.fresh(), parts);
  const keys = await state.fresh();
  const key = await makeKey(keys, 'ed25519');
  const signKey = ownPath(key.secret);
  const request = await state.request(path, { signKey });
  const report = await verifyBuild(state.images.engine, request, {}, ['path']);
  t.is(report.failure?.code, 'E_BUILD_DIFFERS', report.failure?.stack);
  t.regex(
    report.failure?.message ?? '',
    /^two builds of it are not the same: shaky-1-1\.x86_64: .*, and \d+ more$/,
  );
  const unsigned = join(report.resultDirectory, report.packages[0]!.file);
  t.notRegex((await rpmkeys(keys, unsigned, [key.public])).text, /Signature/);
  t.is(report.exitStatus, 5);
  const told = (report.differences ?? []).map(({ path: file, what }) => `${file ?? ''} ${what}`);
  const folder = '/usr/share/shaky';
  // Where the state directory lies in memory, too, there is no other file system to build on.
  const { stdout: type } = await execa('stat', ['-fc', '%T', state.images.engine.paths.root]);
  const files = type === 'tmpfs' ? [] : ['order', 'files'];
  for (const name of ['host', 'folder', 'zone', 'jobs', 'time', 'second', ...files]) {
    t.true(
      told.some((line) => line.startsWith(`${folder}/${name} content`)),
      told.join('\n'),
    );
  }
  t.true(told.some((line) => line.startsWith(`${folder}/link`) && line.endsWith('linkTarget')));
  t.true(told.includes(`${folder}/only-kiln only the first build has it`));
  t.true(told.includes(`${folder}/only-another-host only the second build has it`));
  t.true(told.includes(' scriptlets'));
  t.false(told.some((line) => line.includes('/same ')));
  const detailOf = (name: string) =>
    report.differences?.find(({ path: file }) => file === `${folder}/${name}`)?.detail;
  t.deepEqual(detailOf('host'), ['-kiln', '+another-host']);
  t.regex(detailOf('folder')?.join('\n') ?? '', /^-\/builddir\/build\/.*\n\+.*\/another\/build/);
  t.is(detailOf('link'), undefined);
  const result = JSON.parse(await resultFile(report, 'result.json'));
  t.is(result.build.differences.length, told.length);
  // The manifest is of the result.json that is there.
  await execa('sha256sum', ['-c', '--quiet', join(report.resultDirectory, 'SHA256SUMS')], {
    cwd: report.resultDirectory,
  });
  t.deepEqual(await leftovers(state), []);
});

/** Real programs with debugging information, which has the path that they were built in. */
const REAL = [
  {
    name: 'hello',
    tarball: 'hello_2.10.orig.tar.gz',
    build: './configure --quiet --prefix=/usr && make -s',
    file: 'hello',
  },
  {
    name: 'zlib',
    tarball: 'zlib_1.3.dfsg+really1.3.1.orig.tar.gz',
    build: './configure --prefix=/usr && make -s libz.so.1.3.1',
    file: 'libz.so.1.3.1',
  },
];

long('real packages are reproducible in one path, and otherwise the path is named', async (t) => {
  const sources = await ensureSources();
  for (const { name, tarball, build, file } of REAL) {
    const spec = join(await state.fresh(), `${name}.spec`);
    const folder = await state.fresh();
    await copyFile(join(sources, tarball), join(folder, tarball));
    await writeFile(
      spec,
      `%global debug_package %{nil}
%global __os_install_post %{nil}
Name: ${name}
Version: 1
Release: 1
Summary: x
License: MIT
Source0: ${tarball}
%description
x
%prep
tar xf %{SOURCE0} --strip-components=1
%build
CFLAGS="-g -O2" ${build}
%install
install -D ${file} %{buildroot}/usr/lib/real/${file}
%files
/usr/lib/real
`,
    );
    const request = {
      ...(await state.request(spec)),
      image: 'debian-build',
      source: { kind: 'spec' as const, path: ownPath(spec), sources: ownPath(folder) },
    };
    const { engine } = state.images;
    const same = await verifyBuild(engine, {
      ...request,
      resultDirectory: ownPath(await state.fresh()),
    });
    t.deepEqual(same.differences, [], `${name}: ${same.failure?.message}`);
    const varied = await verifyBuild(engine, request, {}, ['path']);
    t.is(varied.failure?.code, 'E_BUILD_DIFFERS', name);
    const detail = varied.differences?.flatMap((difference) => difference.detail ?? []).join('\n');
    t.regex(detail ?? '', /\/builddir\/another\/build/, name);
  }
});

long('a package that was built in a machine has the bytes of one of a container', async (t) => {
  t.timeout(900_000 * PATIENCE);
  await using engine = openEngine(state.images.env);
  const parts = {
    name: 'steady',
    preamble: 'BuildRequires: tool-a',
    install: 'tool-a > %{buildroot}/usr/share/steady/said',
    sections: '%changelog\n* Mon Nov 13 2023 One <one@example.org> - 1-1\n- One',
  };
  // What rpm leaves to a distribution: times of the changelog, and no host.
  const defines = [
    'source_date_epoch_from_changelog 1',
    'clamp_mtime_to_source_date_epoch 1',
    'build_mtime_policy clamp_to_source_date_epoch',
    'use_source_date_epoch_as_buildtime 1',
    '_buildhost kiln',
  ];
  const path = await sourcePackage(await state.fresh(), parts);
  const built = async (wanted: Partial<BuildRequest>) => {
    const request = await state.request(path, { defines, ...wanted });
    const report = await buildPackage(engine, request);
    t.is(report.exitStatus, 0, report.failure?.stack);
    return report;
  };
  const container = await built({});
  const machine = await built({ isolation: 'vm', allowMissing: ['kvm'] });
  t.is(container.measured?.machine, undefined);
  t.truthy(machine.measured?.machine?.kernel);
  const digests = ({ packages, sourcePackage: source }: typeof machine) =>
    [...packages, source!].map(({ file, sha256 }) => `${file} ${sha256}`);
  t.deepEqual(digests(machine), digests(container));
});
