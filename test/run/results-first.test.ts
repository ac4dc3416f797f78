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

/**
 * What `attempt` saw, the first time that it took less than `milliseconds`: on a busy machine a turn may take
 * longer than what is timed here.
 */
async function undisturbed<Seen>(
  milliseconds: number,
  attempt: () => Promise<Seen>,
): Promise<Seen> {
  for (let attempts = 0; attempts < 100; attempts++) {
    const begun = performance.now();
    const seen = await attempt();
    if (performance.now() - begun < milliseconds) return seen;
  }
  throw new Error(`a hundred times it took ${milliseconds} ms or more`);
}

test.serial('with nothing else going on it ends in the next turn', async (t) => {
  const box = ending();
  t.false(box.done);
  await box.promise;
  t.true(box.done);
});

test.serial('a start goes first, and the result of a command that has just started', async (t) => {
  // That long it counts as just started.
  const seen = await undisturbed(10, async () => {
    using result = beginRun();
    const box = ending();
    for (let turns = 0; turns < 5; turns++) await turn();
    const starting = box.done;
    result.started();
    await turn();
    const running = box.done;
    result[Symbol.dispose]();
    await box.promise;
    return { starting, running, over: box.done };
  });
  t.deepEqual(seen, { starting: false, running: false, over: true });
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
  const seen = await undisturbed(100, async () => {
    using starting = beginRun();
    const box = ending();
    await turn();
    const before = box.done;
    starting[Symbol.dispose]();
    await turn();
    return { before, after: box.done };
  });
  t.deepEqual(seen, { before: false, after: true });
});

test.serial(
  'a start that is over is no longer waited for, long before its command ends',
  async (t) => {
    // Ten milliseconds, and not the hundred of a start that goes on.
    await undisturbed(80, async () => {
      using starting = beginRun();
      const box = ending();
      await turn();
      starting.started();
      await box.promise;
      t.true(box.done);
    });
  },
);

test.serial('without end of starts it ends all the same', async (t) => {
  using _ = beginRun();
  const done = await undisturbed(100, async () => {
    const box = ending();
    await turn();
    return box.done;
  });
  t.false(done);
  const box = ending();
  await box.promise;
  t.true(box.done);
});
