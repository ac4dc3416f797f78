/** scripts/crash-test: see docs/testing.md. */
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buildState, sourcePackage } from '../../test/build/core/build-state.ts';
import { debianRepository } from '../../test/image/image-state.ts';
import { snapshotTree } from '../../test/image/tree-snapshot.ts';
import { busyboxState, IMAGE } from '../../test/support/busybox-state.ts';
import { interruption, scratchFolder } from '../scratch.ts';
import { scriptOptions } from '../testing/options.ts';
import { crash, describeTally } from './campaign.ts';
import { buildJob, daemonJob, type Ground, imageJob, type Job, kiln, runJob } from './jobs.ts';
import { machineJob } from './machine.ts';
import { TARGETS, type Target } from './victim.ts';

const values = scriptOptions({
  count: { type: 'string', default: '500' },
  each: { type: 'string', default: '20' },
  phase: { type: 'string' },
  target: { type: 'string' },
  minutes: { type: 'string' },
  machines: { type: 'boolean', default: false },
});

/**
 * Small, and with scriptlets: the account of the user is made by one. The tools are in no other
 * image, so they are thrown away between runs, and are fetched and unpacked again.
 */
const SMALL =
  'packages: [base-files, base-passwd, bash, coreutils, dash, tool-b, tool-c]\nenvironment: { PATH: /usr/bin }';

async function main(): Promise<number> {
  const target = TARGETS.find((name) => name === values.target);
  if (values.target !== undefined && target === undefined)
    throw new Error(`--target ${values.target}: it is one of ${TARGETS.join(', ')}`);
  scratchFolder('crash');
  // What is not killed starts in a third of the time from the bundle.
  process.env.KILN_FROM_SOURCE = '';
  // No sandbox but those of the jobs.
  process.env.KILN_PARKED = '0';
  if (values.machines) return await machines(target);
  await using state = await buildState('noarch');
  const { engine } = state.images;
  // What is killed runs from source, for its probe: its modules are compiled once.
  const env = { ...state.images.env, NODE_COMPILE_CACHE: join(state.directory, 'compiled') };
  const ground: Ground = {
    ...{ paths: engine.paths, env, directory: state.directory, image: state.recipe },
  };
  const source = await sourcePackage(state.directory, {
    ...{ name: 'victim', preamble: 'BuildRequires: tool-a', prep: 'sleep 0.1', build: 'tool-a' },
    install: 'echo x > %{buildroot}/usr/share/victim/x',
  });
  const first = await kiln(ground, [
    'build',
    '-q',
    '-r',
    state.recipe,
    '--resultdir',
    join(state.directory, 'first'),
    source,
  ]);
  process.stdout.write(`the first build: status ${first.exitCode} ${first.stderr}\n`);
  const recipe = await state.images.recipe('small', SMALL, [
    await debianRepository(),
    { id: 'tools', directory: state.tools },
  ]);
  const snapshot = (tree: string) =>
    createHash('sha256')
      .update(JSON.stringify([...snapshotTree(tree)]))
      .digest('hex');
  const jobs = [
    await runJob(ground, 'run'),
    await runJob(ground, 'run --keep'),
    await runJob(ground, 'run by a worker'),
    daemonJob(ground),
    buildJob(ground, source),
    await imageJob(ground, recipe, snapshot),
  ];
  return await campaign(ground, jobs, target);
}

/** Of machines alone: one takes as long as all else that is killed. */
async function machines(target: Target | undefined): Promise<number> {
  await using state = await busyboxState();
  const contents = { inputs: null, packages: [], linked: [], exactReasons: [] };
  await writeFile(join(state.paths.images, IMAGE, 'contents.json'), JSON.stringify(contents));
  const { paths, env, beside } = state;
  const ground: Ground = { paths, env, directory: beside, image: IMAGE };
  return await campaign(ground, [machineJob(ground)], target);
}

async function campaign(
  ground: Ground,
  jobs: readonly Job[],
  target: Target | undefined,
): Promise<number> {
  const minutes = values.minutes === undefined ? undefined : Number(values.minutes);
  const tally = await crash(ground, jobs, {
    ...{ kills: Number(values.count), each: Number(values.each) },
    ...(values.phase === undefined ? {} : { phase: values.phase }),
    ...(target === undefined ? {} : { target }),
    every: 20,
    ...(minutes === undefined ? {} : { deadline: Date.now() + minutes * 60_000 }),
    say: (line) => process.stdout.write(`${line}\n`),
    signal: interruption(),
  });
  process.stdout.write(`${describeTally(tally)}\n`);
  return tally.wrong.length === 0 ? 0 : 1;
}

// At ^C it is not 0 already.
if ((await main()) > 0) process.exitCode = 1;
