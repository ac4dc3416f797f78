/** scripts/load-test: see docs/testing.md. */
import { parseArgs } from 'node:util';
import { busyboxState, IMAGE } from '../../test/support/busybox-state.ts';
import { describeLoad, load } from './load.ts';

const USAGE = `usage: scripts/load-test [--at-once N] [--one-by-one N] [--week N]

Opens sandboxes all at once (100), then one after the other (1000), in this process and as
clients of the daemon; then makes the remains of a bad week (20 of each kind) and has kiln gc clear up.
Prints what there is before and after of domains, processes, cgroups, mounts, id ranges, files, disk,
descriptors and memory. Exit status 1 if there is more afterwards.`;

const { values } = parseArgs({
  options: {
    'at-once': { type: 'string', default: '100' },
    'one-by-one': { type: 'string', default: '1000' },
    week: { type: 'string', default: '20' },
    help: { type: 'boolean', default: false },
  },
});

async function main(): Promise<number> {
  await using state = await busyboxState();
  const report = await load(
    { paths: state.paths, env: state.env, image: IMAGE },
    {
      atOnce: Number(values['at-once']),
      oneByOne: Number(values['one-by-one']),
      week: Number(values.week),
      say: (line) => process.stdout.write(`${line}\n`),
    },
  );
  process.stdout.write(`${describeLoad(report)}\n`);
  return report.wrong.length === 0 ? 0 : 1;
}

if (values.help) process.stdout.write(`${USAGE}\n`);
else process.exitCode = await main();
