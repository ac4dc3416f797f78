import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { crash, describeTally, type Tally, targetsOf } from '../../scripts/crash/campaign.ts';
import { daemonJob, runJob } from '../../scripts/crash/jobs.ts';
import { busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';

/** In how many phases something was killed. */
function phasesOf(tally: Tally): number {
  return [...tally.phases.values()].filter(({ size }) => size > 0).length;
}

test('killing kiln, its daemon, workers, libvirtd, controller or init in any phase of a run leaves nothing', async (t) => {
  t.timeout(600_000 * PATIENCE);
  await using state = await busyboxState();
  const directory = await mkdtemp(join(tmpdir(), 'kiln-crash-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  await chmod(directory, 0o755);
  const contents = { inputs: null, packages: [], linked: [], exactReasons: [] };
  await writeFile(join(state.paths.images, IMAGE, 'contents.json'), JSON.stringify(contents));
  // From the bundle, through the daemon; no sandbox but those of the jobs.
  const own = { ...state.env, KILN_FROM_SOURCE: '', KILN_PARKED: '0' };
  // Those that tell their phases run from source, whose modules are compiled once.
  const env = { ...own, NODE_COMPILE_CACHE: join(directory, 'compiled') };
  const ground = { paths: state.paths, env, directory, image: IMAGE };
  const jobs = [
    await runJob(ground, 'run by a worker'),
    daemonJob(ground),
    await runJob(ground, 'run'),
  ];
  const tally = await crash(ground, jobs, {
    ...{ kills: 11, every: 11 },
    // What is to be killed may be there no more when its turn comes, and phases end too soon.
    until: (it) => [...targetsOf(it).values()].every((n) => n > 0) && phasesOf(it) >= 5,
    deadline: Date.now() + 420_000 * PATIENCE,
    say: (line) => t.log(line),
  });
  t.deepEqual(tally.wrong, [], describeTally(tally));
  t.true(tally.kills >= 11);
  for (const [target, count] of targetsOf(tally)) t.true(count > 0, target);
  t.true(phasesOf(tally) >= 5, describeTally(tally));
});

test('a process that stops before its work is done is a failure', async (t) => {
  const door = new URL('../../src/sandbox/door/planned-sandbox.ts', import.meta.url).href;
  const stuck = `data:text/javascript,import{PlannedSandbox}from${JSON.stringify(door)};PlannedSandbox.open=()=>new Promise(()=>{})`;
  await using state = await busyboxState();
  const main = join(import.meta.dirname, '../../src/programs/command-line.ts');
  const { exitCode, stderr } = await execa(
    process.execPath,
    ['--import', stuck, main, 'run', '-r', IMAGE, '--', 'true'],
    { env: state.env, reject: false, stdin: 'ignore' },
  );
  t.is(exitCode, 125);
  t.regex(stderr, /stopped before its work was done/);
});
