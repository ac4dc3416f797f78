/** A round of a chain without a pool: what DAGMan would run before and after each step, and the step itself, here. */
import {
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { type FarmChain, FarmFiles } from '../../src/farm/chain.ts';
import { planRound } from '../../src/farm/plan.ts';
import { prepareStep } from '../../src/farm/prepare.ts';
import { publishStep } from '../../src/farm/publish.ts';
import { Reporter, resultsOfRun } from '../../src/farm/report.ts';
import { newChain } from '../../src/farm/run-chain.ts';
import { makeDirectory } from '../../src/host/files/folder.ts';
import { ownPath } from '../../src/host/files/held.ts';
import { Records } from '../../src/jobs/chain/records.ts';
import { type SourceSpec, sourcePackage } from '../build/source-packages.ts';
import { type ImageState, imageState } from '../image/image-state.ts';

const OWNER = { uid: 0, gid: 0 };

/** As `kiln build` has them when nothing is said. */
const OPTIONS = {
  ...{ defines: [], with: [], without: [], nocheck: false, rpmbuildOptions: [] },
  packages: [],
};

let state: ImageState;
test.before(async () => {
  state = await imageState({ unpacked: 'all' });
});
test.after.always(async () => {
  await state?.[Symbol.asyncDispose]();
});

/** How many source packages were looked at in a sandbox. */
let scanned = 0;

async function doStep(folder: string): Promise<number> {
  const { task, members } = JSON.parse(readFileSync(join(folder, 'step.json'), 'utf8'));
  if (task === 'scan') scanned += members.length;
  const ended = await state.kiln(['farm', 'step', 'step.json', '--resultdir', 'out'], {
    cwd: folder,
    timeout: 600_000,
  });
  const left = readdirSync(join(folder, 'out')).filter((name) => name.startsWith('results-'));
  if (left.length > 0) throw new Error(`the step has left ${left}`);
  return ended.exitCode ?? 125;
}

/** Makes source packages. */
async function make(specs: readonly SourceSpec[]): Promise<string[]> {
  const sources: string[] = [];
  for (const spec of specs) sources.push(await sourcePackage(join(state.directory, 'srpms'), spec));
  return sources;
}

/** Plans a round of these packages. */
async function plan(
  out: string,
  sources: readonly string[],
  more: Partial<FarmChain> = {},
): Promise<FarmChain> {
  makeDirectory(out);
  const request = {
    sources,
    resultDirectory: out,
    image: 'debian-build',
    options: OPTIONS,
    jobs: null,
    continue: false,
    recurse: false,
  };
  using records = Records.open(ownPath(out));
  using files = FarmFiles.make(ownPath(out), out);
  const chain = { ...(await newChain(request, '00c0ffee')), ...more };
  const planned = await planRound(chain, { files, records, doStep, lost: new Set() });
  files.keep(planned);
  for (const { node } of planned.members) if (node !== null) files.forgetOutcome(node);
  return planned;
}

function filesIn(out: string): FarmFiles {
  return FarmFiles.open(ownPath(out), out);
}

function nodes({ members }: FarmChain): Record<string, string | null> {
  return Object.fromEntries(members.map(({ name, node }) => [name, node]));
}

/** Does one step and publishes it, as a pool would; `between` changes what came back. */
async function step(out: string, node: string, between = (_made: string) => {}): Promise<number[]> {
  const folder = join(out, '.kiln/farm', node);
  using files = filesIn(out);
  const prepared = await prepareStep(files, node, []);
  if (prepared !== 0) return [prepared];
  const status = await doStep(join(folder, 'in'));
  renameSync(join(folder, 'in/out'), join(folder, 'out'));
  between(join(folder, 'out'));
  return [prepared, status, await publishStep(files, node, status, OWNER)];
}

const CHAIN: readonly SourceSpec[] = [
  { name: 'app', buildRequires: ['liba-devel'] },
  { name: 'liba' },
  { name: 'other' },
];

test.serial('steps are built with earlier results, and nothing is planned twice', async (t) => {
  const out = join(state.directory, 'out');
  const sources = await make(CHAIN);
  const chain = await plan(out, sources);
  t.deepEqual(nodes(chain), { 'app-1-1': 's1', 'liba-1-1': 's2', 'other-1-1': 's3' });
  t.deepEqual(chain.members[0]?.needs, [{ member: 'liba-1-1', capabilities: ['liba-devel'] }]);
  for (const node of ['s2', 's3', 's1']) t.deepEqual(await step(out, node), [0, 0, 0], node);
  const made = readdirSync(join(out, 'repository/current')).filter((name) => name.endsWith('.rpm'));
  t.is(made.length, 6);
  for (const { name } of chain.members) t.true(existsSync(join(out, name, 'success')), name);
  t.false(existsSync(join(out, 'app-1-1/farm.json')));
  // A local chain takes them for its own.
  const argv = ['build', '--chain', '-r', 'debian-build', '--resultdir', out];
  const local = await state.kiln([...argv, ...chain.sources], { timeout: 600_000 });
  t.is(local.exitCode, 0, String(local.stderr));
  const report = JSON.parse(readFileSync(join(out, 'chain.json'), 'utf8'));
  t.deepEqual(
    new Set(report.members.map((one: { state: string }) => one.state)),
    new Set(['unchanged']),
  );
  t.is(scanned, 3);
  const again = await plan(out, sources);
  t.deepEqual(nodes(again), { 'app-1-1': null, 'liba-1-1': null, 'other-1-1': null });
  t.deepEqual(again.members[0]?.needs, [{ member: 'liba-1-1', capabilities: ['liba-devel'] }]);
  t.is(scanned, 3);
  const [liba] = await make([{ name: 'liba', build: 'echo changed' }]);
  const changed = await plan(out, [sources[0]!, liba!, sources[2]!]);
  t.deepEqual(nodes(changed), { 'app-1-1': 's1', 'liba-1-1': 's2', 'other-1-1': null });
  t.is(scanned, 4);
});

test.serial('damaged results are the machine’s fault, and are not published', async (t) => {
  const out = join(state.directory, 'damaged');
  const chain = await plan(out, await make([{ name: 'liba' }]));
  const rpm = (made: string) => join(made, 'liba-1-1.noarch.rpm');
  for (const damage of [
    (made: string) => writeFileSync(rpm(made), 'another package'),
    (made: string) => symlinkSync('/etc/shadow', join(made, 'link')),
    (made: string) => writeFileSync(join(made, 'farm.json'), '{}'),
  ]) {
    t.deepEqual(await step(out, 's1', damage), [0, 0, 75]);
    t.false(existsSync(join(out, 'liba-1-1')));
  }
  using files = filesIn(out);
  t.is(new Reporter(chain, files).reportOf(chain.members[0]!).state, 'skipped');
  // One that did not end by itself: HTCondor gives the signal, negative.
  t.is(await publishStep(files, 's1', -9, OWNER), 75);
  t.deepEqual(await step(out, 's1'), [0, 0, 0]);
  t.is(new Reporter(chain, files).reportOf(chain.members[0]!).state, 'built');
});

test.serial('after a failure no step begins, unless the chain is to go on', async (t) => {
  // The good one takes longer than from one sample to the next.
  const specs = await make([
    { name: 'bad', build: 'exit 3' },
    { name: 'good', build: 'sleep 1' },
  ]);
  const out = join(state.directory, 'failing');
  const chain = await plan(out, specs, { options: { ...OPTIONS, samples: false } });
  t.deepEqual(await step(out, 's1'), [0, 65, 65]);
  t.true(existsSync(join(out, 'bad-1-1/fail')));
  t.deepEqual(await step(out, 's2'), [65]);
  using files = filesIn(out);
  const [bad, good] = chain.members.map((member) => new Reporter(chain, files).reportOf(member));
  t.is(bad?.exitStatus, 1);
  t.is(bad?.report?.failure?.code, 'E_BUILD_FAILED');
  t.is(good?.state, 'skipped');
  const result = JSON.parse(readFileSync(join(out, 'bad-1-1/result.json'), 'utf8'));
  t.false('samples' in result);
  // As of a local chain: what was built in this run, by its own result.json.
  const results = resultsOfRun(ownPath(out), [bad!, good!]);
  t.deepEqual([...results.keys()], ['bad-1-1']);
  t.deepEqual(results.get('bad-1-1')?.failure, result.failure);
  t.deepEqual(results.get('bad-1-1')?.phases, result.phases);
  t.true(result.phases.length > 1);
  rmSync(join(out, 'bad-1-1/result.json'));
  t.is(resultsOfRun(ownPath(out), [bad!]).get('bad-1-1')?.failure?.message, result.failure.message);
  const going = join(state.directory, 'going');
  await plan(going, specs, { continue: true });
  t.deepEqual(await step(going, 's1'), [0, 65, 65]);
  t.deepEqual(await step(going, 's2'), [0, 0, 0]);
  t.true('samples' in JSON.parse(readFileSync(join(going, 'good-1-1/result.json'), 'utf8')));
});

test.serial('packages that need each other are an error before anything is built', async (t) => {
  const specs = [
    { name: 'one', buildRequires: ['two-devel'] },
    { name: 'two', buildRequires: ['one-devel'] },
  ];
  await t.throwsAsync(plan(join(state.directory, 'cycle'), await make(specs)), {
    code: 'E_CHAIN_CYCLE',
  });
});
