/** The simulation of large pools obeys what no pool can break. */
import test from 'ava';
import { type Scenario, simulate } from '../../scripts/farm/simulation.ts';

const SCENARIO: Scenario = {
  packages: 500,
  workers: 20,
  times: [10, 20, 60],
  dispatch: 3,
  overhead: 1,
  image: { bytes: 1e8, seconds: 10 },
  requires: { count: 20, bytes: 1e6, kinds: 1000 },
  bandwidth: 1e8,
  needs: 3,
  seed: 7,
};

test('ranking machines by what they have moves less, and no pool beats its bound', (t) => {
  const [ranked, plain] = [simulate(SCENARIO, true), simulate(SCENARIO, false)];
  t.true(ranked.hits > plain.hits, `${ranked.hits} ${plain.hits}`);
  t.true(ranked.moved < plain.moved);
  for (const { makespan, bound, busy } of [ranked, plain]) {
    t.true(makespan >= bound);
    t.true(busy > 0 && busy <= 1);
  }
  t.deepEqual(simulate(SCENARIO, true), ranked);
});

test('one machine does all builds one after the other, each with its overhead', (t) => {
  const alone = {
    ...SCENARIO,
    workers: 1,
    packages: 50,
    times: [10],
    bandwidth: Number.POSITIVE_INFINITY,
  };
  const { makespan, imagesMade, busy } = simulate(alone, true);
  t.is(imagesMade, 1);
  t.is(Math.round(makespan), 50 * (10 + 3 + 1) + 10);
  t.is(Math.round(busy * makespan), 500);
});

test('a second machine is no use to packages that each need the one before', (t) => {
  const scenario = { ...SCENARIO, packages: 2, needs: 100, workers: 5, times: [10] };
  const { makespan } = simulate(scenario, true);
  t.true(makespan >= 2 * (10 + 3 + 1));
});
