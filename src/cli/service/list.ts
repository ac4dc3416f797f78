import { Command } from 'commander';
import { formatPublish } from '../../service/definition/definition.ts';
import { instanceFiles } from '../../service/instance-files.ts';
import { type ListedService, listServices } from '../../service/status.ts';
import type { Caller } from '../caller/caller.ts';
import { printError } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { printTable } from '../output/table.ts';

/** `kiln service list`. */
export function listCommand(caller: Caller): Command {
  return new Command('list')
    .alias('ls')
    .description('List services with their state and what they use.')
    .argument('[service...]', 'names of services; all by default')
    .option('--json', 'print one JSON array instead of a table')
    .addHelpText(
      'after',
      '\nPORTS are [ADDRESS:]HOSTPORT:PORT; the address is 127.0.0.1 where none is shown.\n\nExamples:\n  kiln service list\n  kiln service list --json apache1',
    )
    .action(async (names: string[], options: { json?: boolean }) => {
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
      printTable(
        caller.stdout,
        ['NAME', 'STATE', 'UPTIME', 'CPU', 'MEMORY', 'PIDS', 'RESTARTS', 'PORTS', 'UNITS'],
        listed.map(row),
      );
      for (const { problem } of listed)
        if (problem !== undefined) printError(problem, caller.stderr);
    });
}

/** What a service does, in a word. */
export function serviceState({ service, status, outcome, problem }: ListedService): string {
  if (status !== undefined)
    return status.health?.state === 'unhealthy' ? 'unhealthy' : status.state;
  if (service === undefined || service.image === undefined) return 'broken';
  return problem === undefined ? (outcome?.state ?? 'created') : 'silent';
}

function row(listed: ListedService): string[] {
  const { name, service, status } = listed;
  const state = serviceState(listed);
  const { publish = [], units = [], command } = service?.definition ?? {};
  const names = command === undefined ? units : [command[0] ?? ''];
  const ports = publish.map(formatPublish);
  if (status === undefined) {
    return [name, state, '', '', '', '', '', ports.join(' '), names.join(' ')];
  }
  const { usage } = status;
  return [
    name,
    state,
    duration(Date.now() - status.started),
    usage.cpuMicroseconds === undefined ? '' : `${(usage.cpuMicroseconds / 1e6).toFixed(1)}s`,
    usage.memoryBytes === undefined ? '' : `${(usage.memoryBytes / 2 ** 20).toFixed(0)}M`,
    String(usage.pids ?? ''),
    String(status.restarts),
    [status.address ?? [], status.publish.map(formatPublish)].flat().join(' '),
    status.units.map((unit) => `${unit.name}:${unit.state}`).join(' '),
  ];
}

function duration(milliseconds: number): string {
  const seconds = Math.round(milliseconds / 1000);
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)}m`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)}h`;
  return `${Math.round(seconds / 86_400)}d`;
}
