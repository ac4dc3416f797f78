/** Prints what a chain would take on a pool: scripts/farm-simulation. */
import { readFileSync } from 'node:fs';
import { scriptOptions } from '../testing/options.ts';
import { type Scenario, simulate } from './simulation.ts';

const values = scriptOptions({
  packages: { type: 'string', default: '10000' },
  workers: { type: 'string', default: '1000' },
  // The chain.json of a real chain: its times, over and over.
  times: { type: 'string' },
  seed: { type: 'string', default: '1' },
});

/**
 * Of docs/farm.md, measured on the pool of scripts/farm-demo: delays of HTCondor, what a step takes beside its
 * build, the image debian-build and its packages. Builds of minutes stand in for those of a distribution.
 */
const MEASURED: Omit<Scenario, 'packages' | 'workers' | 'seed'> = {
  times: [20, 30, 45, 60, 60, 90, 120, 180, 300, 900],
  dispatch: 1.5,
  overhead: 3,
  image: { bytes: 150e6, seconds: 13 },
  requires: { count: 60, bytes: 0.4e6, kinds: 5000 },
  bandwidth: 50e6,
  needs: 4,
};

const times =
  values.times === undefined
    ? MEASURED.times
    : (
        JSON.parse(readFileSync(values.times, 'utf8')) as { members: { durationMs: number }[] }
      ).members.map(({ durationMs }) => durationMs / 1000);
const scenario: Scenario = {
  ...MEASURED,
  times,
  packages: Number(values.packages),
  workers: Number(values.workers),
  seed: Number(values.seed),
};
process.stdout.write(`${scenario.packages} packages on ${scenario.workers} machines\n`);
for (const rank of [true, false]) {
  const { makespan, bound, hits, imagesMade, moved, busy } = simulate(scenario, rank);
  const parts = [
    `makespan ${(makespan / 60).toFixed(1)} min (at least ${(bound / 60).toFixed(1)})`,
    `cache hits ${(hits * 100).toFixed(1)} %`,
    `images made ${imagesMade}`,
    `moved ${(moved / 1e9).toFixed(1)} GB`,
    `machines busy ${(busy * 100).toFixed(0)} %`,
  ];
  process.stdout.write(`${rank ? 'with rank:   ' : 'without rank:'} ${parts.join(', ')}\n`);
}
