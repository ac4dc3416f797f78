/** scripts/load-test: see docs/testing.md. */
import { busyboxState, IMAGE } from '../../test/support/busybox-state.ts';
import { scratchFolder } from '../scratch.ts';
import { scriptOptions } from '../testing/options.ts';
import { describeLoad, load } from './load.ts';

const values = scriptOptions({
  'at-once': { type: 'string', default: '100' },
  'one-by-one': { type: 'string', default: '1000' },
  week: { type: 'string', default: '20' },
});

async function main(): Promise<number> {
  scratchFolder('load');
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

process.exitCode = await main();
