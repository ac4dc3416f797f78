/** The remains of a bad week: what crashes leave, made by crashes where that is quick. */
import { once } from 'node:events';
import { mkdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { domainPrefix } from '../../src/sandbox/domain/sandbox-record.ts';
import { controllers, signal } from '../crash/processes.ts';

const KILN = join(import.meta.dirname, '../../dist/kiln.cjs');

/** Where and with what. */
export interface Week {
  readonly paths: StatePaths;
  readonly env: NodeJS.ProcessEnv;
  readonly image: string;
  /** How many of each kind. */
  readonly count: number;
}

/** Makes the mess. */
export async function makeMess(week: Week): Promise<void> {
  await killRunners(week);
  await killControllers(week);
  for (let i = 0; i < week.count; i++) {
    await run(week, ['run', '-r', week.image, '--keep=1s', '--', 'true']);
  }
  halfMade(week);
  await killDaemon(week);
  // Kept sandboxes are over their time then, and folders without a record are nobody's.
  await sleep(6000);
}

async function run({ env }: Week, args: readonly string[]): Promise<void> {
  await execa(process.execPath, [KILN, ...args], { env, stdin: 'ignore', reject: false });
}

/** Sandboxes that run, as many as there are to be; their runners. */
async function start({ env, image, count }: Week) {
  const script = ['run', '-r', image, '--', 'sh', '-c', 'echo up; sleep 1000'];
  const runs = Array.from({ length: count }, () =>
    execa(process.execPath, [KILN, ...script], { env, stdin: 'ignore', reject: false }),
  );
  await Promise.all(runs.map((one) => Promise.race([once(one.stdout, 'data'), one])));
  return runs;
}

async function killRunners(week: Week): Promise<void> {
  const runs = await start(week);
  for (const one of runs) one.kill('SIGKILL');
  await Promise.all(runs);
}

async function killControllers(week: Week): Promise<void> {
  const runs = await start(week);
  for (const pid of controllers(domainPrefix(week.paths)).values()) signal(pid, 'SIGKILL');
  for (const one of runs) one.kill('SIGKILL');
  await Promise.all(runs);
}

async function killDaemon({ paths, env, image }: Week): Promise<void> {
  const { readFile } = await import('node:fs/promises');
  signal(Number(await readFile(embeddedFiles(paths).pid, 'utf8')), 'SIGKILL');
  await run({ paths, env, image, count: 1 }, ['run', '-r', image, '--', 'true']);
}

/** Trees of builds that died: of packages, of images, and what was on its way out. */
function halfMade({ paths, count }: Week): void {
  const lastWeek = new Date(Date.now() - 7 * 24 * 3600_000);
  const folder = (path: string) => {
    mkdirSync(join(path, 'tree/usr'), { recursive: true });
    writeFileSync(join(path, 'tree/usr/file'), Buffer.alloc(64 << 10, 1));
    utimesSync(path, lastWeek, lastWeek);
  };
  for (let i = 0; i < count; i++) {
    const name = `dead${String(i).padStart(12, '0')}`;
    folder(join(paths.store, 'work', name));
    mkdirSync(join(paths.store, 'locks'), { recursive: true });
    writeFileSync(join(paths.store, 'locks', `work-${name}`), '');
    folder(join(paths.trash, name));
    folder(join(paths.images, String(i).padStart(64, 'd')));
    const sandbox = join(paths.sandboxes, `dead${String(i).padStart(6, '0')}`);
    mkdirSync(sandbox);
    utimesSync(sandbox, lastWeek, lastWeek);
  }
}
