/** scripts/solver-campaign: see docs/testing.md. */
import { parseArgs } from 'node:util';
import { campaign, describeCampaign } from './campaign.ts';

const USAGE = `usage: scripts/solver-campaign [--count N] [--first SEED] [--confined]

Makes random repositories, and asks kiln and dnf the same random questions (1000) about them. Prints
where they differ. With --confined kiln is asked as recipes ask it, in confined children, which takes
a second each. Exit status 1 if a difference is none of those that docs/repositories.md lists.`;

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '1000' },
    first: { type: 'string', default: '1' },
    confined: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

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

if (values.help) process.stdout.write(`${USAGE}\n`);
else process.exitCode = await main();
