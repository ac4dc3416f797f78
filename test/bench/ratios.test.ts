/**
 * Guards the ratios of docs/performance.md against big steps back: margins are several times the
 * goals, for machines that are busy with other tests. scripts/bench measures.
 */
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import { execute, interleave, type Side } from '../../scripts/benchmark/measure.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';

const test = anyTest as TestFn;
const top = join(import.meta.dirname, '../..');
const bundle = join(top, 'dist/kiln.cjs');

/**
 * A side whose measure is the processor time, in milliseconds, of a shell command and all it waits
 * for: what else the machine does changes that little.
 */
function processorTime(name: string, script: string, env?: NodeJS.ProcessEnv): Side {
  const run = async () => {
    const { stdout } = await execa('sh', ['-c', `${script}; times`], { ...(env && { env }) });
    const children = stdout.split('\n').at(-1) ?? '';
    const times = [...children.matchAll(/(\d+)m([\d.]+)s/g)];
    if (times.length !== 2) throw new Error(`times(1) says ${stdout}`);
    return (
      times.reduce((sum, [, minutes, seconds]) => sum + Number(minutes) * 60 + Number(seconds), 0) *
      1000
    );
  };
  return { name, run };
}

// Several starts at once: times(1) counts in hundredths of a second.
const node = processorTime('node -e 0', starts(`'${process.execPath}' -e 0`));

function starts(command: string): string {
  return Array.from({ length: 4 }, () => `${command} >/dev/null`).join('; ');
}

let state: BusyboxState;

test.before(async () => {
  await execa(process.execPath, [join(top, 'scripts/build.ts')]);
  state = await busyboxState();
});
test.after.always(async () => {
  await state?.[Symbol.asyncDispose]();
});

const kiln = (...args: readonly string[]): Side =>
  processorTime(
    `kiln ${args[0]}`,
    starts([`'${process.execPath}' '${bundle}'`, ...args].join(' ')),
    state.env,
  );

/** The fastest runs by each other: what else the machine does makes none faster. */
async function ratio(ours: Side, peer: Side, runs: number): Promise<number> {
  const [a, b] = await interleave([ours, peer], runs, { rest: 0 });
  return (a?.min ?? Number.NaN) / (b?.min ?? Number.NaN);
}

test.serial('a run in a parked box costs a few starts of Node', async (t) => {
  const park = () => execute([process.execPath, bundle, 'park', '-n', '4'], state.env);
  const run = {
    ...kiln('run', '-r', IMAGE, '--', 'true'),
    before: async () => void (await park()),
  };
  const measured = await ratio(run, node, 4);
  await execute([process.execPath, bundle, 'park', '--none'], state.env);
  t.log(measured.toFixed(2));
  t.true(measured < 8 * PATIENCE, `kiln run takes ${measured.toFixed(2)} times node -e 0`);
});

test.serial('a gigabyte through the box costs about what the bare pipe does', async (t) => {
  const script = 'dd if=/dev/zero bs=1M count=1024';
  const measured = await ratio(
    processorTime(
      'kiln',
      `'${process.execPath}' '${bundle}' run -r ${IMAGE} -- ${script} 2>/dev/null | cat >/dev/null`,
      state.env,
    ),
    processorTime('pipe', `${script} 2>/dev/null | cat >/dev/null`),
    4,
  );
  t.log(measured.toFixed(2));
  t.true(measured < 3 * PATIENCE, `${measured.toFixed(2)} times the bare pipe`);
});
