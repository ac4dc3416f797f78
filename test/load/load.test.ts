import test from 'ava';
import { describeLoad, load } from '../../scripts/load/load.ts';
import { busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';

test('after sandboxes at once, one by one, and crashes, the host is as before', async (t) => {
  t.timeout(600_000 * PATIENCE);
  await using state = await busyboxState();
  const report = await load(
    { paths: state.paths, env: state.env, image: IMAGE },
    { atOnce: 10, oneByOne: 15, week: 3, say: (line) => t.log(line) },
  );
  t.log(describeLoad(report));
  t.deepEqual(report.wrong, []);
  const [, during] = report.columns;
  t.is(during?.counts.domains, 10);
  t.true((during?.counts.cgroups ?? 0) >= 10);
});
