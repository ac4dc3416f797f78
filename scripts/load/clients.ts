/** Clients of the daemon by the dozen: kilnd itself serves every other one, workers serve the rest. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { plainEnvironment } from '../../test/support/daemon.ts';
import type { LoadGround } from './load.ts';

const KILN = join(import.meta.dirname, '../../bin/kiln');

/** One run; what is wrong with it, if anything is. A result directory is work for a worker. */
async function client({ paths, env, image }: LoadGround, n: number): Promise<string[]> {
  const results = join(paths.root, 'results', String(n));
  const options = n % 2 === 0 ? [] : ['--resultdir', results];
  const { exitCode, stdout, stderr } = await execa(
    KILN,
    ['run', '-r', image, ...options, '--', 'echo', `I am ${n}`],
    {
      env: plainEnvironment(env),
      extendEnv: false,
      reject: false,
      stdin: 'ignore',
      timeout: 240_000,
    },
  );
  rmSync(results, { recursive: true, force: true });
  if (exitCode === 0 && stdout === `I am ${n}`) return [];
  return [`client ${n} ended with ${exitCode}, said ${JSON.stringify(stdout)}: ${stderr}`];
}

/** Starts so many at once. Gives what is wrong, a line each. */
export async function clientsAtOnce(ground: LoadGround, count: number): Promise<string[]> {
  mkdirSync(join(ground.paths.root, 'results'), { recursive: true });
  const all = await Promise.all(Array.from({ length: count }, (_, n) => client(ground, n)));
  return all.flat();
}

/** Starts one after the other. Gives what is wrong, a line each. */
export async function clientsOneByOne(ground: LoadGround, count: number): Promise<string[]> {
  const wrong: string[] = [];
  for (let n = 0; n < count; n++) wrong.push(...(await client(ground, n)));
  return wrong;
}
