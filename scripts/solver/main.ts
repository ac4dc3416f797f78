/** scripts/solver-campaign: see docs/testing.md. */

import { scratchFolder } from '../scratch.ts';
import { scriptOptions } from '../testing/options.ts';
import { campaign, describeCampaign } from './campaign.ts';

const values = scriptOptions({
  count: { type: 'string', default: '1000' },
  first: { type: 'string', default: '1' },
  confined: { type: 'boolean', default: false },
});

/** Worlds and caches of the campaign are made there. */
scratchFolder('campaign');

async function main(): Promise<number> {
  const report = await campaign({
    first: Number(values.first),
    count: Number(values.count),
    confined: values.confined,
    say: (line) => process.stdout.write(`${line}\n`),
  });
  process.stdout.write(`${describeCampaign(report)}\n`);
  return report.unexplained.length === 0 ? 0 : 1;
}

process.exitCode = await main();
