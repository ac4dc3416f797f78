/** When a box whose result is known is taken apart, while others run in the same process. */
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import test from 'ava';
import { beginRun, endLater } from '../../src/run/results-first.ts';

/** Ends a box; tells whether that was done. */
function ending(): { done: boolean; readonly promise: Promise<void> } {
  const state = {
    done: false,
    promise: endLater(async () => {
      state.done = true;
    }),
  };
  return state;
}

test.serial('with nothing else going on it ends in the next turn', async (t) => {
  const box = ending();
  t.false(box.done);
  await box.promise;
  t.true(box.done);
});

test.serial('a start goes first, and the result of a command that has just started', async (t) => {
  using result = beginRun();
  const box = ending();
  for (let turns = 0; turns < 5; turns++) await turn();
  t.false(box.done);
  result.started();
  await turn();
  t.false(box.done);
  result[Symbol.dispose]();
  await box.promise;
  t.true(box.done);
});

test.serial('for a command that runs longer nobody waits', async (t) => {
  using result = beginRun();
  result.started();
  await sleep(20);
  const box = ending();
  await turn();
  await turn();
  t.true(box.done);
});

test.serial('beside one that runs longer it waits for the others only', async (t) => {
  using long = beginRun();
  long.started();
  await sleep(20);
  using starting = beginRun();
  const box = ending();
  await turn();
  t.false(box.done);
  starting[Symbol.dispose]();
  await turn();
  t.true(box.done);
});

test.serial(
  'a start that is over is no longer waited for, long before its command ends',
  async (t) => {
    using starting = beginRun();
    const box = ending();
    await turn();
    starting.started();
    const before = performance.now();
    await box.promise;
    // Ten milliseconds; on a busy machine they take longer.
    t.true(performance.now() - before < 80);
  },
);

test.serial('without end of starts it ends all the same', async (t) => {
  using _ = beginRun();
  const box = ending();
  await turn();
  t.false(box.done);
  await box.promise;
  t.true(box.done);
});
