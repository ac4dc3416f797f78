/** Starts a pool of three machines in network namespaces and builds a chain there. `--stay`: until ^C. */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { removeTree } from '../../src/host/files/remove-tree.ts';
import { sourcePackage } from '../../test/build/source-packages.ts';
import { Pool } from './pool.ts';

/** Who needs whom: a diamond, and something that stands alone. */
const CHAIN = [
  { name: 'base' },
  { name: 'left', buildRequires: ['base-devel'] },
  { name: 'right', buildRequires: ['base-devel'] },
  { name: 'top', buildRequires: ['left-devel', 'right-devel'] },
  { name: 'other' },
];

const directory = mkdtempSync(join(tmpdir(), 'kiln-farm-'));
chmodSync(directory, 0o755);
const fixtures = process.env.KILN_FIXTURES ?? join(import.meta.dirname, '../../.cache/fixtures');
const say = (text: string) => process.stdout.write(`${text}\n`);
let pool: Pool | undefined;
/** ^C ends what is being done, and what has been made goes. */
const interruption = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    process.exitCode = 130;
    interruption.abort(new Error('interrupted'));
  });
}
try {
  say('starting a pool of three machines');
  pool = await Pool.start({ directory, fixtures, workers: 3, signal: interruption.signal });
  const { home } = pool;
  const packages: string[] = [];
  for (const spec of CHAIN) packages.push(await sourcePackage(join(home, 'srpms'), spec));
  await execa('chmod', ['-R', 'a+rX', join(home, 'srpms')]);
  for (const argv of [
    ['farm', 'check'],
    ['build', '--chain', '--farm', '-r', 'debian-build', '--resultdir', 'out', ...packages],
  ]) {
    interruption.signal.throwIfAborted();
    say(`\n$ kiln ${argv.join(' ')}`);
    const { exitCode } = await pool.kiln(argv, { stdout: 'inherit', stderr: 'inherit' });
    process.exitCode = exitCode ?? 1;
    if (exitCode !== 0) break;
  }
  if (process.argv.includes('--stay')) {
    say(`\nthe pool stays until ^C: its user's commands are\n${pool.shown()}`);
    await new Promise<void>((resolve) => {
      const timer = setInterval(() => undefined, 60_000);
      process.once('SIGINT', () => {
        clearInterval(timer);
        resolve();
      });
    });
  }
} catch (error) {
  if (interruption.signal.aborted) say('interrupted: what was started goes');
  else {
    process.stderr.write(`kiln: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
} finally {
  await pool?.[Symbol.asyncDispose]();
  await removeTree(directory);
  rmSync(directory, { recursive: true, force: true });
}
