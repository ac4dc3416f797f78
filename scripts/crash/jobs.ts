/** What is killed, and how it is told that what came of it is right. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { killServed, NO_SANDBOX, SANDBOX, SERVED_TARGETS } from './served.ts';
import { type Kill, killOne, OWN_TARGETS, type Target, type VictimOptions } from './victim.ts';

/** Where a campaign works. */
export interface Ground {
  readonly paths: StatePaths;
  readonly env: NodeJS.ProcessEnv;
  /** A folder for whatever is needed. */
  readonly directory: string;
  /** What `kiln run` and `kiln build` run in. */
  readonly image: string;
}

/** Something kiln does, over and over, to be killed in each of its phases. */
export interface Job {
  readonly name: string;
  /** What is killed, by turns. */
  readonly targets: readonly Target[];
  /** Starts it and kills. It sees the phases. */
  readonly kill: (options: VictimOptions) => Promise<Kill>;
  /** Phases to kill in, with how long each about takes, ms. */
  readonly phases: Readonly<Record<string, number>>;
  /** Makes ready what the next run starts from, so that it comes to that phase. */
  prepare(phase: string): Promise<void>;
  readonly args: readonly string[];
  /** What is run after each kill instead, where `args` take long; then they are run at each look. */
  readonly next?: readonly string[];
  readonly resultDirectory?: string;
  /** What is wrong with what lies there, whether or not somebody was killed. `whole`: nobody was. */
  check(whole: boolean): Promise<string[]>;
}

const KILN = join(import.meta.dirname, '../../bin/kiln');

/** How a kiln ended. */
export interface Finished {
  readonly exitCode: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs kiln to its end, undisturbed. */
export async function kiln(ground: Ground, args: readonly string[]): Promise<Finished> {
  const { exitCode, stdout, stderr } = await execa(KILN, args, {
    env: ground.env,
    reject: false,
    stdin: 'ignore',
    timeout: 240_000,
    killSignal: 'SIGKILL',
  });
  return { exitCode, stdout, stderr };
}

const sha256 = (bytes: Buffer | string) => createHash('sha256').update(bytes).digest('hex');

/** What the command of a run writes: its artifacts by name. */
const ARTIFACTS = { copied: 'copied in\n', bound: 'bound\n', made: 'made\n' };

const IN_OWN_PROCESS = { targets: OWN_TARGETS, kill: killOne } as const;
const SERVED = {
  ...{ targets: SERVED_TARGETS, kill: killServed },
  // The daemon is there before the second.
  phases: { [SANDBOX]: 1000, [NO_SANDBOX]: 250 },
} as const;

/**
 * `kiln run` with binds, files copied in, artifacts and a result directory: in a process of its own, kept there,
 * or by a worker of the daemon's.
 */
export async function runJob(
  ground: Ground,
  name: 'run' | 'run --keep' | 'run by a worker',
): Promise<Job> {
  const keep = name === 'run --keep';
  const directory = join(ground.directory, name.replaceAll(' ', '-'));
  const resultDirectory = join(directory, 'result');
  await mkdir(join(directory, 'bind'), { recursive: true });
  await mkdir(join(directory, 'in'), { recursive: true });
  await writeFile(join(directory, 'bind/file'), 'bound\n');
  await writeFile(join(directory, 'in/file'), 'copied in\n');
  for (let i = 0; i < 200; i++) await writeFile(join(directory, `in/${i}`), String(i));
  const script =
    'mkdir /tmp/w/out && cd /tmp/w/out && cat ../in/file > copied && cat /b/file > bound && sleep 0.3 && echo made > made && for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=big$i bs=1k count=2000 2>/dev/null; done';
  return {
    ...(name === 'run by a worker'
      ? SERVED
      : {
          ...IN_OWN_PROCESS,
          phases: {
            image: 15,
            sandbox: 250,
            'copy-in': 60,
            start: 25,
            command: 450,
            artifacts: 120,
            ...(keep ? {} : { destroy: 120 }),
          },
        }),
    name,
    args: [
      ...['run', '-r', ground.image, '--resultdir', resultDirectory],
      ...['--bind', `${directory}/bind:/b:ro`, '--copy-in', `${directory}/in:/tmp/w/in`],
      ...['--workdir', '/tmp/w', '--artifact', 'out/**'],
      // Long enough to be collected, short enough to be gone by the next look.
      ...(keep ? ['--keep=1s'] : []),
      ...['--', 'sh', '-c', script],
    ],
    resultDirectory,
    prepare: () => rm(resultDirectory, { recursive: true, force: true }),
    async check(whole) {
      const wrong = await checkReported(resultDirectory);
      for (const [name, content] of Object.entries(ARTIFACTS)) {
        const found = await readFile(join(resultDirectory, name), 'utf8').catch(() => undefined);
        // Whoever was killed need not have got so far; but what has the name is whole.
        if (found !== content && (whole || found !== undefined)) {
          wrong.push(`artifact ${name}: ${JSON.stringify(found)}`);
        }
      }
      if (whole && !existsSync(join(resultDirectory, 'result.json'))) wrong.push('no result.json');
      return wrong;
    },
  };
}

/** `kiln run` of a command alone: the daemon itself has its sandbox. */
export function daemonJob(ground: Ground): Job {
  return {
    ...SERVED,
    name: 'run by kilnd',
    args: ['run', '-r', ground.image, '--', 'sleep', '0.6'],
    prepare: async () => undefined,
    check: async () => [],
  };
}

/** Every artifact that a result.json tells of must be there, as it tells. */
export async function checkReported(directory: string): Promise<string[]> {
  const text = await readFile(join(directory, 'result.json'), 'utf8').catch(() => undefined);
  if (text === undefined) return [];
  const wrong: string[] = [];
  const result = JSON.parse(text) as { artifacts: { path: string; sha256?: string }[] };
  for (const { path, sha256: digest } of result.artifacts) {
    if (digest === undefined || digest === null) continue;
    const bytes = await readFile(join(directory, path)).catch(() => undefined);
    if (bytes === undefined) wrong.push(`result.json reports ${path}, which is not there`);
    else if (sha256(bytes) !== digest) wrong.push(`result.json reports another ${path}`);
  }
  return wrong;
}

/** `kiln build` of a small source package. */
export function buildJob(ground: Ground, source: string): Job {
  const resultDirectory = join(ground.directory, 'build-result');
  return {
    ...IN_OWN_PROCESS,
    name: 'build',
    phases: {
      input: 20,
      image: 100,
      sandbox: 250,
      srpm: 300,
      buildrequires: 20,
      dependencies: 400,
      build: 900,
      collect: 80,
      destroy: 120,
    },
    args: ['build', '-q', '-r', ground.image, '--resultdir', resultDirectory, source],
    resultDirectory,
    prepare: () => rm(resultDirectory, { recursive: true, force: true }),
    async check(whole) {
      const wrong = await checkReported(resultDirectory);
      const names = await execa('find', [resultDirectory, '-name', '*.rpm'], { reject: false });
      const rpms = names.stdout.split('\n').filter((name) => name !== '' && !name.includes('/.'));
      if (whole && rpms.length !== 2) wrong.push(`a build made ${rpms.length} packages`);
      for (const rpm of rpms) {
        const { exitCode } = await execa('rpm', ['-K', '--nosignature', rpm], { reject: false });
        if (exitCode !== 0) wrong.push(`${rpm} is not whole`);
      }
      return wrong;
    },
  };
}

/** `kiln image build` of a recipe. */
export async function imageJob(
  ground: Ground,
  recipe: string,
  snapshot: (tree: string) => string,
): Promise<Job> {
  const built = await kiln(ground, ['image', 'build', recipe]);
  if (built.exitCode !== 0) throw new Error(`the reference image: ${built.stderr}`);
  const id = built.stdout.trim();
  const image = join(ground.paths.images, id);
  const reference = snapshot(join(image, 'tree'));
  return {
    ...IN_OWN_PROCESS,
    name: 'image build',
    phases: { metadata: 150, fetch: 100, unpack: 400, compose: 200, scriptlets: 500 },
    args: ['image', 'build', recipe],
    async prepare(phase) {
      await kiln(ground, ['image', 'rm', id]);
      // Whatever is there already is not done again: packages' trees, and what repositories have.
      if (phase !== 'compose' && phase !== 'scriptlets')
        await kiln(ground, ['gc', '--max-size', '1']);
      if (phase === 'metadata') await rm(ground.paths.cache, { recursive: true, force: true });
    },
    async check(whole) {
      const { stdout } = await kiln(ground, ['image', 'ls', '--json']);
      const listed = (JSON.parse(stdout) as { id: string }[]).some((it) => it.id === id);
      if (!listed) return whole ? ['the image is not there'] : [];
      return snapshot(join(image, 'tree')) === reference ? [] : ['an image that is not whole'];
    },
  };
}
