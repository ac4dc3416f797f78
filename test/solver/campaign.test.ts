import test from 'ava';
import { campaign, describeCampaign } from '../../scripts/solver/campaign.ts';
import { long } from '../support/long.ts';

test('random repositories and questions: dnf finds the same packages', async (t) => {
  t.timeout(600_000);
  const report = await campaign({ first: 20_000, count: 60, say: (line) => t.log(line) });
  t.log(describeCampaign(report));
  t.deepEqual(report.unexplained, []);
  // Questions that nobody can answer compare little.
  t.true(report.solved >= 20, String(report.solved));
});

long('more random repositories and questions', async (t) => {
  t.timeout(3_600_000);
  const report = await campaign({ first: 30_000, count: 500, say: (line) => t.log(line) });
  t.log(describeCampaign(report));
  t.deepEqual(report.unexplained, []);
});
