import { KilnError } from '../../errors.ts';
import { Output } from '../../sandbox/door/output.ts';
import { outOfTime } from '../deadline.ts';
import { endText } from '../failure.ts';
import { ROOT_POLICY, type UnitHost } from '../unit-host.ts';

/** More than it has to say of any number of units; what it says comes from the box. */
const OUTPUT_MAX = 256 * 1024;

/** Runs the box's own systemctl and gives what it said. Throws E_UNIT_FAILED, E_UNIT_TIMEOUT. */
export async function systemctl(
  host: UnitHost,
  argv: readonly string[],
  patience: number,
): Promise<string> {
  const stderr = new Output(500);
  const end = await host.sandbox.execute(
    {
      argv: ['systemctl', '--no-pager', ...argv],
      ...{ env: { LANG: 'C.UTF-8' }, workdir: '/', policy: ROOT_POLICY },
      ...{ time: { timeout: patience }, leftovers: 'left' },
    },
    {
      capture: OUTPUT_MAX,
      onOutput: (chunk, stream) => {
        if (stream === 'stderr') stderr.push(chunk);
      },
    },
  );
  if (end.timeLimit !== null) throw outOfTime(patience);
  if (end.exitCode === 0) return end.stdout.toString('utf8');
  const reason = stderr.text().trim() || endText(end);
  throw new KilnError('E_UNIT_FAILED', `systemctl ${argv.join(' ')}: ${reason}`);
}
