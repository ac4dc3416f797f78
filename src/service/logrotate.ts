import { KilnError } from '../errors.ts';
import { isKilnCode } from './failure.ts';
import type { InstanceFiles } from './instance-files.ts';
import { runInService } from './run-in-service.ts';
import type { ServiceStatus } from './status.ts';
import { askSupervisor } from './supervisor-client.ts';

/** Units are given so long to open their logs again, ms. */
const RELOAD_PATIENCE = 120_000;

/** What logrotate's run in a service came to. */
export interface LogrotateReport {
  /** What it said: images have neither systemctl nor invoke-rc.d, which some configurations call. */
  readonly output: string;
  readonly exitCode: number | null;
  /** Units that were reloaded, so that they write to the new files. */
  readonly reloaded: readonly string[];
}

/**
 * Runs the image's own logrotate in a service that runs, then reloads the units that can be.
 * Throws E_SERVICE_STOPPED, E_NO_LOGROTATE.
 */
export async function logrotate(
  name: string,
  files: InstanceFiles,
  options: { readonly force?: boolean } = {},
): Promise<LogrotateReport> {
  const argv = ['logrotate', ...(options.force === true ? ['--force'] : [])];
  argv.push('--state', '/var/lib/logrotate/status', '/etc/logrotate.conf');
  const end = await runInService(files, { argv }).catch((error: unknown) => {
    if (!isKilnCode(error, 'E_COMMAND_NOT_FOUND')) throw error;
    throw new KilnError('E_NO_LOGROTATE', `the image of ${name} has no logrotate`, {
      hint: 'add the package logrotate to its recipe',
    });
  });
  const status = await askSupervisor<ServiceStatus>(files, { do: 'status' });
  if (end === undefined || status === undefined) {
    throw new KilnError('E_SERVICE_STOPPED', `${name} does not run`);
  }
  const reloaded: string[] = [];
  for (const unit of status.units.filter(({ state }) => state === 'active')) {
    try {
      await askSupervisor(files, { do: 'reload', unit: unit.name }, RELOAD_PATIENCE);
      reloaded.push(unit.name);
    } catch (error) {
      if (!isKilnCode(error, 'E_NO_RELOAD')) throw error;
    }
  }
  return { output: end.output, exitCode: end.exitCode, reloaded };
}
