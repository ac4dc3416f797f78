import { flag } from '../../options/kind.ts';
import { count } from '../../options/numbers.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { ROOTS } from '../../options/rules.ts';
import { formatPublish } from '../../sandbox/policy/network.ts';
import { networksFile } from '../../service/definition/definition.ts';
import { instanceFiles, readService, serviceFiles } from '../../service/lifecycle/store.ts';
import { type ListedService, listServices, serviceState } from '../../service/list-services.ts';
import { followLog, readLog } from '../../service/log-file.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { printError } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { type Columns, isJson, type ListOptions, listing, printRows } from '../output/table.ts';

export function listCommand(caller: Caller): KilnCommand {
  return new KilnCommand('list')
    .alias('ls')
    .description('List services with their state and what they use.')
    .argument('[service...]', 'names of services; all by default')
    .rows(listing('{{.Name}} {{.State}}'))
    .addHelpText(
      'after',
      '\nPORTS are [ADDRESS:]HOSTPORT:PORT; the address is 127.0.0.1 where none is shown.\n\nExamples:\n  kiln service list\n  kiln service list --json apache1',
    )
    .action(async (names: string[], options: ListOptions) => {
      await using engine = caller.openEngine();
      const listed = await listServices(engine.paths, names);
      printRows(
        caller.stdout,
        COLUMNS,
        listed,
        options,
        ({ name, service, problem, status, outcome }) => ({
          name,
          file: instanceFiles(engine.paths, name).definition,
          image: service?.image,
          definition: service && {
            ...service.definition,
            network: networksFile(service.definition),
          },
          problem: problem?.message,
          status,
          outcome,
        }),
      );
      for (const { problem } of isJson(options) ? [] : listed)
        if (problem !== undefined) printError(problem, caller.stderr);
    });
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

const STATUS = {
  lines: lines('show this many lines of the log', 10),
  json: row(flag, ROOTS, { help: 'print one JSON array instead of text' }),
};

function lines(help: string, usual: number) {
  return row(count, ROOTS, { help, short: 'n', usual });
}

/** Of systemctl(1): a service that does not run. */
const NOT_RUNNING = 3;

export function statusCommand(caller: Caller): KilnCommand {
  return new KilnCommand('status')
    .description(
      'Show how services are: state, since when, restarts, memory, ports, units, and the last lines of the log.',
    )
    .argument('<service...>', 'names of services')
    .rows(STATUS)
    .addHelpText(
      'after',
      '\nThe exit status is 0 if all of them run, 3 if one does not.\n\nExamples:\n  kiln service status apache1',
    )
    .action(async (names: string[], { json, lines }: ValuesOf<typeof STATUS>) => {
      await using engine = caller.openEngine();
      for (const name of names) await serviceFiles(engine.paths, name);
      const listed = await listServices(engine.paths, names);
      const logOf = (name: string) => readLog(instanceFiles(engine.paths, name), lines);
      if (json === true) {
        const all = listed.map((one) => ({ ...statusFields(one), log: logOf(one.name) }));
        printJson(caller.stdout, all, 2);
      } else for (const one of listed) caller.stdout.say(statusText(one, logOf(one.name)));
      const isUp = ({ status }: ListedService) => status?.state === 'running';
      caller.exitStatus = listed.every(isUp) ? 0 : NOT_RUNNING;
    });
}

function statusFields(listed: ListedService) {
  const { name, service, status, outcome, problem } = listed;
  const since = status?.started ?? outcome?.time;
  return {
    ...{ name, state: serviceState(listed), image: service?.image },
    since: since === undefined ? undefined : new Date(since).toISOString(),
    reason: problem?.message ?? (outcome?.reason || undefined),
    restarts: status?.restarts,
    usage: status?.usage,
    address: status?.address ?? undefined,
    ports: (status?.publish ?? service?.definition.publish ?? []).map(formatPublish),
    health: status?.health ?? undefined,
    supervisorPid: status?.supervisorPid,
    units: (status?.units ?? []).map((unit) => ({
      ...unit,
      since: new Date(unit.since).toISOString(),
    })),
  };
}

function statusText(listed: ListedService, log: readonly string[]): string {
  const { state, since, reason, restarts, usage, address, ports, ...more } = statusFields(listed);
  const memory = [mebibytes(usage?.memoryBytes), mebibytes(usage?.peakMemoryBytes)];
  const ago = since === undefined ? '' : ` (${duration(Date.now() - Date.parse(since))} ago)`;
  const rows: readonly (readonly [string, string | undefined])[] = [
    ['state', reason === undefined ? state : `${state}: ${reason}`],
    ['since', since && `${since}${ago}`],
    ['image', more.image?.slice(0, 12)],
    ['restarts', restarts?.toString()],
    ['memory', usage && `${memory[0] || '?'}, peak ${memory[1] || '?'}`],
    ['cpu', usage && seconds(usage.cpuMicroseconds)],
    ['processes', usage?.pids?.toString()],
    ['ports', [address ?? [], ports].flat().join(' ')],
    ['health', more.health && `${more.health.state} ${more.health.text}`.trim()],
    ...more.units.map(
      (unit) =>
        ['unit', `${unit.name} ${unit.state} since ${unit.since} ${unit.reason}`.trim()] as const,
    ),
  ];
  const shown = rows.filter(([, value]) => value !== undefined && value !== '');
  const lines = shown.map(([what, value]) => `  ${what.padEnd(10)}${value}`);
  const said = log.length === 0 ? [] : ['  log', ...log.map((line) => `    ${line}`)];
  return `${[listed.name, ...lines, ...said].join('\n')}\n`;
}

const LOGS = {
  follow: row(flag, ROOTS, { help: 'also show new lines until Ctrl-C', short: 'f' }),
  lines: lines('show this many lines', 200),
};

export function logsCommand(caller: Caller): KilnCommand {
  return new KilnCommand('logs')
    .description('Show the log of a service: what its units wrote, and messages of kiln.')
    .argument('<service>', 'the name of the service')
    .rows(LOGS)
    .examples('kiln service logs apache1', 'kiln service logs -f -n 20 apache1')
    .action(async (name: string, options: ValuesOf<typeof LOGS>) => {
      await using engine = caller.openEngine();
      const { files } = await readService(engine.paths, name);
      if (options.follow !== true) {
        for (const line of readLog(files, options.lines)) caller.stdout.say(`${line}\n`);
        return;
      }
      const interrupted = new AbortController();
      const end = () => interrupted.abort();
      using _ending = caller.onSignal(['SIGINT', 'SIGTERM', 'SIGHUP'], end);
      const write = (text: string) => caller.stdout.say(text);
      await followLog(files, options.lines, write, interrupted.signal);
    });
}
