import { KilnError } from '../../errors.ts';
import { ROOT_CAPABILITIES } from '../../sandbox/capabilities.ts';
import { commandPolicy } from '../../sandbox/policy.ts';
import { within } from '../deadline.ts';
import { endText } from '../failure.ts';
import { endOf, type UnitHost } from '../unit-host.ts';

/** More than it has to say of any number of units; what it says comes from the box. */
const OUTPUT_MAX = 256 * 1024;

/** Runs the box's own systemctl and gives what it said. Throws E_UNIT_FAILED, E_UNIT_TIMEOUT. */
export async function systemctl(
  host: UnitHost,
  argv: readonly string[],
  patience: number,
): Promise<string> {
  const command = await host.sandbox.spawn(['systemctl', '--no-pager', ...argv], {
    policy: await commandPolicy(host.paths, host.sandbox.surroundings, {
      user: '0:0',
      capabilities: ROOT_CAPABILITIES,
      seccomp: 'default',
    }),
    env: { LANG: 'C.UTF-8' },
  });
  command.stdin.end();
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    command[name].on('data', (chunk: Buffer) => {
      if (said[name].length < OUTPUT_MAX) said[name] += chunk.toString('utf8');
    });
  }
  const closed = new Promise<void>((resolve) => command.once('close', () => resolve()));
  try {
    const end = await within(endOf(command), patience);
    await within(closed, patience);
    if (end.exitCode === 0) return said.stdout;
    const reason = said.stderr.trim().slice(0, 500) || endText(end);
    throw new KilnError('E_UNIT_FAILED', `systemctl ${argv.join(' ')}: ${reason}`);
  } finally {
    command.kill('SIGKILL');
  }
}
