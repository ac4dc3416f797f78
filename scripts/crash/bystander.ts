/** Runs that go on while others are killed, and must not notice. */
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { listSandboxes } from '../../src/sandbox/domain/sandbox-record.ts';

/** What a bystander writes at its end, and its status. */
const LAST = 'counted up to the end';
const STATUS = 7;

const KILN = join(import.meta.dirname, '../../dist/kiln.cjs');

/** A run that lives until it is told to end. */
export interface Bystander {
  readonly sandbox: string;
  readonly runner: number;
  /** Ends it; says what is wrong with how it ended, if anything is. */
  end(): Promise<string | undefined>;
}

/** Starts one; it is up when this returns. */
export async function startBystander(
  paths: StatePaths,
  env: NodeJS.ProcessEnv,
  image: string,
  directory: string,
): Promise<Bystander> {
  await mkdir(directory, { recursive: true });
  const name = `bystander ${directory}`;
  const script = `echo up; n=0; while [ ! -e /b/stop ]; do n=$((n+1)); sleep 0.2; done; echo ${LAST}; exit ${STATUS}`;
  const running = execa(
    process.execPath,
    [KILN, 'run', '-r', image, '--bind', `${directory}:/b`, '--', 'sh', '-c', script, name],
    // The terminal's ^C is not for it: it would be told as one that ended wrongly.
    { env, reject: false, stdin: 'ignore', detached: true },
  );
  await Promise.race([once(running.stdout, 'data'), running]);
  const sandbox = (await listSandboxes(paths, { owner: undefined })).find(({ record }) =>
    record.command?.includes(name),
  );
  if (sandbox === undefined) {
    const { exitCode, stderr } = await running;
    throw new Error(`a bystander did not start: ${exitCode}: ${stderr}`);
  }
  return {
    sandbox: sandbox.id,
    runner: running.pid ?? 0,
    async end() {
      await writeFile(join(directory, 'stop'), '');
      const { exitCode, stdout, stderr, timedOut } = await running;
      if (exitCode === STATUS && stdout === `up\n${LAST}`) return undefined;
      return `bystander ${sandbox.id}: status ${exitCode}${timedOut ? ', timed out' : ''}, output ${JSON.stringify(stdout)}, ${stderr}`;
    },
  };
}
