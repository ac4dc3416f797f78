/**
 * Guards some ratios of docs/performance.md against big steps back: margins are several times the
 * goals, for machines that are busy with other tests. scripts/bench measures.
 */
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import { interleave, type Side, shell } from '../../scripts/benchmark/measure.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';

const test = anyTest as TestFn;
const top = join(import.meta.dirname, '../..');

let state: BusyboxState;

test.before(async () => {
  await execa(process.execPath, [join(top, 'scripts/build.ts')]);
  state = await busyboxState();
});
test.after.always(async () => {
  await state?.[Symbol.asyncDispose]();
});

/** As people have it: by the daemon, with parked sandboxes. The suite's own environment has neither. */
const kiln = (script: string): Side =>
  shell('kiln', `'${KILN}' ${script}`, {
    ...state.env,
    KILN_FROM_SOURCE: undefined,
    KILN_PARKED: undefined,
  });

/** The fastest runs by each other: what else the machine does makes none faster. */
async function ratio(ours: Side, peer: Side, runs: number, rest: number): Promise<number> {
  const [a, b] = await interleave([ours, peer], runs, { rest });
  return (a?.min ?? Number.NaN) / (b?.min ?? Number.NaN);
}

test.serial('a run takes about as long as starting an empty Node', async (t) => {
  const run = kiln(`run -r ${IMAGE} -- true`);
  const measured = await ratio(run, shell('node', `'${process.execPath}' -e 0`), 6, 250);
  t.log(measured.toFixed(2));
  t.true(measured < 3 * PATIENCE, `kiln run takes ${measured.toFixed(2)} times node -e 0`);
});

test.serial('a gigabyte through a sandbox costs about what a bare pipe costs', async (t) => {
  const pipe = 'dd if=/dev/zero bs=1M count=1024 2>/dev/null | cat >/dev/null';
  const measured = await ratio(kiln(`run -r ${IMAGE} -- ${pipe}`), shell('pipe', pipe), 3, 0);
  t.log(measured.toFixed(2));
  t.true(measured < 4 * PATIENCE, `${measured.toFixed(2)} times the bare pipe`);
});
