/** Starts a pool of three machines in network namespaces and builds a chain there. `--stay`: until ^C. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { sourcePackage } from '../../test/build/source-packages.ts';
import { interruption, scratchFolder } from '../scratch.ts';
import { Pool } from './pool.ts';

/** Who needs whom: a diamond, and something that stands alone. */
const CHAIN = [
  { name: 'base' },
  { name: 'left', buildRequires: ['base-devel'] },
  { name: 'right', buildRequires: ['base-devel'] },
  { name: 'top', buildRequires: ['left-devel', 'right-devel'] },
  { name: 'other' },
];

const directory = scratchFolder('farm');
const fixtures = process.env.KILN_FIXTURES ?? join(import.meta.dirname, '../../.cache/fixtures');
const say = (text: string) => process.stdout.write(`${text}\n`);
let pool: Pool | undefined;
/** The network and the user of a pool are taken away by its own end. */
const signal = interruption();
try {
  say('starting a pool of three machines');
  pool = await Pool.start({ directory, fixtures, workers: 3, signal });
  const { home } = pool;
  const packages: string[] = [];
  for (const spec of CHAIN) packages.push(await sourcePackage(join(home, 'srpms'), spec));
  await execa('chmod', ['-R', 'a+rX', join(home, 'srpms')]);
  for (const argv of [
    ['farm', 'check'],
    ['build', '--chain', '--farm', '-r', 'debian-build', '--resultdir', 'out', ...packages],
  ]) {
    signal.throwIfAborted();
    say(`\n$ kiln ${argv.join(' ')}`);
    const { exitCode } = await pool.kiln(argv, {
      ...{ stdout: 'inherit', stderr: 'inherit', cancelSignal: signal },
    });
    process.exitCode = exitCode ?? 1;
    if (exitCode !== 0) break;
  }
  if (process.argv.includes('--stay')) {
    say(`\nthe pool stays until ^C: its user's commands are\n${pool.shown()}`);
    await sleep(2 ** 31 - 1, undefined, { signal });
  }
} catch (error) {
  if (signal.aborted) say('interrupted: what was started goes');
  else {
    process.stderr.write(`kiln: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
} finally {
  await pool?.[Symbol.asyncDispose]();
}
