import { Command } from 'commander';
import { formatPublish } from '../../service/definition/definition.ts';
import { instanceFiles } from '../../service/instance-files.ts';
import { type ListedService, listServices } from '../../service/status.ts';
import type { Caller } from '../caller/caller.ts';
import { printError } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { type Columns, formatOption, type ListOptions, printRows } from '../output/table.ts';

/** `kiln service list`. */
export function listCommand(caller: Caller): Command {
  return new Command('list')
    .alias('ls')
    .description('List services with their state and what they use.')
    .argument('[service...]', 'names of services; all by default')
    .option('--json', 'print one JSON array instead of a table')
    .addOption(formatOption())
    .addHelpText(
      'after',
      '\nPORTS are [ADDRESS:]HOSTPORT:PORT; the address is 127.0.0.1 where none is shown.\n\nExamples:\n  kiln service list\n  kiln service list --json apache1',
    )
    .action(async (names: string[], options: ListOptions) => {
      await using engine = caller.openEngine();
      const listed = await listServices(engine.paths, names);
      if (options.json === true) {
        const json = listed.map(({ name, service, problem, status, outcome }) => ({
          name,
          file: instanceFiles(engine.paths, name).definition,
          image: service?.image,
          definition: service?.definition,
          problem: problem?.message,
          status,
          outcome,
        }));
        printJson(caller.stdout, json);
        return;
      }
      printRows(caller.stdout, COLUMNS, listed, options);
      for (const { problem } of listed)
        if (problem !== undefined) printError(problem, caller.stderr);
    });
}

/** The state of a service in a word. */
export function serviceState({ service, status, outcome, problem }: ListedService): string {
  if (status !== undefined)
    return status.health?.state === 'unhealthy' ? 'unhealthy' : status.state;
  if (service === undefined || service.image === undefined) return 'broken';
  return problem === undefined ? (outcome?.state ?? 'created') : 'silent';
}

const COLUMNS: Columns<ListedService> = [
  ['NAME', ({ name }) => name],
  ['STATE', serviceState],
  ['UPTIME', ({ status }) => (status === undefined ? '' : duration(Date.now() - status.started))],
  ['CPU', ({ status }) => seconds(status?.usage.cpuMicroseconds)],
  ['MEMORY', ({ status }) => mebibytes(status?.usage.memoryBytes)],
  ['PIDS', ({ status }) => String(status?.usage.pids ?? '')],
  ['RESTARTS', ({ status }) => String(status?.restarts ?? '')],
  ['PORTS', ports],
  ['UNITS', units],
];

function seconds(microseconds: number | undefined): string {
  return microseconds === undefined ? '' : `${(microseconds / 1e6).toFixed(1)}s`;
}

function mebibytes(bytes: number | undefined): string {
  return bytes === undefined ? '' : `${(bytes / 2 ** 20).toFixed(0)}M`;
}

/** Of one that does not run: what it would publish. */
function ports({ service, status }: ListedService): string {
  if (status === undefined) return (service?.definition.publish ?? []).map(formatPublish).join(' ');
  return [status.address ?? [], status.publish.map(formatPublish)].flat().join(' ');
}

function units({ service, status }: ListedService): string {
  if (status !== undefined)
    return status.units.map(({ name, state }) => `${name}:${state}`).join(' ');
  const { units: names = [], command } = service?.definition ?? {};
  return command === undefined ? names.join(' ') : (command[0] ?? '');
}

function duration(milliseconds: number): string {
  const seconds = Math.round(milliseconds / 1000);
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)}m`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)}h`;
  return `${Math.round(seconds / 86_400)}d`;
}
