import test from 'ava';
import { campaign, describeCampaign } from '../../scripts/solver/campaign.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { long } from '../support/long.ts';

test('dnf finds the same packages in random repositories, for random questions', async (t) => {
  t.timeout(600_000 * PATIENCE);
  const report = await campaign({
    first: 20_000,
    count: 75,
    confined: false,
    say: (line) => t.log(line),
  });
  t.log(describeCampaign(report));
  t.deepEqual(report.unexplained, []);
  // Questions that nobody can answer compare little.
  t.true(report.solved >= 30, String(report.solved));
});

test('dnf finds the same packages for questions at which campaigns found something', async (t) => {
  t.timeout(600_000 * PATIENCE);
  // Files that only file lists know, needed by all that a package could require, or by what it would; defaults of
  // modules; the order of repositories, and the names of streams, where two answers are equally good.
  for (const first of [70_389, 110_104, 70_016, 30_030, 110_187]) {
    const report = await campaign({ first, count: 3, confined: false, say: (line) => t.log(line) });
    t.deepEqual(report.unexplained, []);
  }
});

test('dnf finds the same packages as a solver in confined children', async (t) => {
  t.timeout(600_000 * PATIENCE);
  const report = await campaign({
    first: 25_000,
    count: 9,
    confined: true,
    say: (line) => t.log(line),
  });
  t.deepEqual(report.unexplained, []);
});

long('dnf finds the same packages for many more random questions', async (t) => {
  t.timeout(3_600_000 * PATIENCE);
  const report = await campaign({
    first: 30_000,
    count: 1000,
    confined: false,
    say: (line) => t.log(line),
  });
  t.log(describeCampaign(report));
  t.deepEqual(report.unexplained, []);
});
