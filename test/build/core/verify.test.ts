import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { verifyBuild } from '../../../src/build/verify.ts';
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
  t.timeout(300_000);
  state = await buildState();
});
test.after.always(() => state[Symbol.asyncDispose]());

test.serial('a build that depends on nothing around it is the same twice', async (t) => {
  const parts = {
    name: 'steady',
    preamble: 'BuildRequires: tool-a',
    // The second build has the first one's directory.
    install: '(tool-a; pwd) > %{buildroot}/usr/share/steady/said',
  };
  const path = await sourcePackage(await state.fresh(), parts);
  const keys = await state.fresh();
  const key = await makeKey(keys, 'ed25519');
  const signing = { key: key.secret };
  const report = await verifyBuild(state.images.engine, await state.request(path, { signing }));
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

test.serial('what differs is told file by file', async (t) => {
  const to = '%{buildroot}/usr/share/shaky';
  const parts = {
    name: 'shaky',
    install: `hostname > ${to}/host; pwd > ${to}/folder; date +%%Z > ${to}/zone; echo %{_smp_build_ncpus} > ${to}/jobs; date +%%s%%N > ${to}/time; date +%%s > ${to}/second; mkdir names; (cd names; touch $(seq -f entry-%%g 200); find . > ${to}/order; stat -fc %%T . > ${to}/files); echo same > ${to}/same; touch ${to}/only-$(hostname); ln -s $(pwd) ${to}/link`,
    sections: '%post\necho built in %{_builddir}',
  };
  const path = await sourcePackage(await state.fresh(), parts);
  const keys = await state.fresh();
  const key = await makeKey(keys, 'ed25519');
  const signing = { key: key.secret };
  const request = await state.request(path, { signing });
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
