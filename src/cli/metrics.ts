/** `kiln metrics`: the daemon and services in Prometheus' text format (version 0.0.4). */
import { once } from 'node:events';
import { lstatSync } from 'node:fs';
import { createServer } from 'node:http';
import { basename, dirname, join } from 'node:path';
import { listJobs } from '../detached/record.ts';
import { KilnError } from '../errors.ts';
import { lockHolder } from '../host/files/flock.ts';
import { Folder } from '../host/files/folder.ts';
import type { HeldPath } from '../host/files/held.ts';
import { withUmask } from '../host/process/own-umask.ts';
import { statOf } from '../host/process/process.ts';
import { type StatePaths, statePaths } from '../host/state/paths.ts';
import { opened } from '../options/places.ts';
import { row, type ValuesOf } from '../options/row.ts';
import { path, ROOTS } from '../options/rules.ts';
import { listSandboxes, SANDBOX_STATES } from '../sandbox/domain/sandbox-record.ts';
import { type ListedService, listServices } from '../service/list-services.ts';
import { type Caller, listenForInterruption, requireHost } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';

const TYPE = 'text/plain; version=0.0.4; charset=utf-8';

const METRICS = {
  listen: row(opened<string>('file', path('result')), ROOTS, {
    help: 'serve them by HTTP on this unix socket until interrupted',
  }),
};

export function command(caller: Caller): KilnCommand {
  return new KilnCommand('metrics')
    .description('Print numbers of the daemon, sandboxes and services as Prometheus reads them.')
    .rows(METRICS)
    .examples(
      'kiln metrics >/var/lib/prometheus/node-exporter/kiln.prom',
      'kiln metrics --listen /run/kiln/metrics.sock',
      'curl --unix-socket /run/kiln/metrics.sock http://kiln/metrics',
    )
    .action(async ({ listen }: ValuesOf<typeof METRICS>) => {
      requireHost(caller.env);
      const paths = statePaths(caller.env);
      if (listen === undefined) caller.stdout.say(await metricsOf(paths));
      else await serve(paths, await caller.paths.resultAt(listen), caller);
    });
}

async function serve(paths: StatePaths, path: HeldPath, caller: Caller): Promise<void> {
  // Others may be able to write to the folder: no path is resolved twice, and the socket is made with its mode.
  using folder = Folder.open(dirname(path));
  removeSocket(folder, path);
  const server = createServer((request, response) => {
    if (request.method !== 'GET') {
      response.writeHead(405).end();
      return;
    }
    metricsOf(paths).then(
      (text) => response.writeHead(200, { 'Content-Type': TYPE }).end(text),
      (error: unknown) => response.writeHead(500).end(`${String(error)}\n`),
    );
  });
  using interruption = listenForInterruption(caller);
  withUmask(0o117, () => server.listen(join(folder.path, basename(path))));
  await once(server, 'listening');
  caller.stderr.say(`kiln: metrics are served at ${path}\n`);
  await once(interruption.signal, 'abort');
  server.close();
  server.closeAllConnections();
}

/** What another call has left; nothing else is replaced. */
function removeSocket(folder: Folder, path: string): void {
  const name = basename(path);
  const found = lstatSync(join(folder.path, name), { throwIfNoEntry: false });
  if (found === undefined) return;
  if (found.isSocket()) {
    folder.remove(name);
    return;
  }
  throw new KilnError('E_ARGUMENT', `--listen: ${path} exists and is not a socket`, {
    hint: 'name a file that does not exist',
  });
}

type Kind = 'gauge' | 'counter';
type Sample = readonly [labels: Readonly<Record<string, string>>, value: number | undefined];

type ServiceStatus = NonNullable<ListedService['status']>;
type Value = (status: ServiceStatus) => number | undefined;

/** What is told of each service that has a supervisor. */
const OF_SERVICES: readonly (readonly [name: string, kind: Kind, help: string, value: Value])[] = [
  [
    'healthy',
    'gauge',
    'What the health check found last',
    ({ health }) => (health ? Number(health.state === 'healthy') : undefined),
  ],
  ['start_time_seconds', 'gauge', 'When its sandbox was started', ({ started }) => started / 1000],
  ['restarts_total', 'counter', 'Restarts of its units', ({ restarts }) => restarts],
  ['memory_bytes', 'gauge', 'Memory of its control group', ({ usage }) => usage.memoryBytes],
  [
    'cpu_seconds_total',
    'counter',
    'Processor time of its sandbox',
    ({ usage: { cpuMicroseconds: time } }) => time && time / 1e6,
  ],
  ['processes', 'gauge', 'Processes in its sandbox', ({ usage }) => usage.pids],
  [
    'oom_kills_total',
    'counter',
    'Processes that its memory limit has ended',
    ({ usage }) => usage.oomKills,
  ],
];

async function metricsOf(paths: StatePaths): Promise<string> {
  const sandboxes = counted(SANDBOX_STATES, await listSandboxes(paths, { owner: undefined }));
  const jobs = counted(['running', 'ended', 'lost'], await listJobs(paths, undefined));
  const services = await listServices(paths);
  const daemon = daemonUsage(paths);
  const of = (value: (status: ListedService['status']) => number | undefined) =>
    services.map(({ name, status }): Sample => [{ service: name }, value(status)]);
  const running = of((status) => Number(status?.state === 'running'));
  return [
    metric('daemon_up', 'gauge', 'Whether kilnd runs', [[{}, Number(daemon !== undefined)]]),
    metric('daemon_resident_bytes', 'gauge', 'Memory of kilnd', [[{}, daemon?.bytes]]),
    metric('daemon_cpu_seconds_total', 'counter', 'Processor time of kilnd', [[{}, daemon?.cpu]]),
    metric('sandboxes', 'gauge', 'Sandboxes by state', sandboxes),
    metric('jobs', 'gauge', 'Detached jobs by state', jobs),
    metric('service_up', 'gauge', 'Whether the service runs and none of its units failed', running),
    ...OF_SERVICES.map(([name, kind, help, value]) =>
      metric(
        `service_${name}`,
        kind,
        help,
        of((status) => status && value(status)),
      ),
    ),
  ].join('');
}

function counted(
  states: readonly string[],
  found: readonly { readonly state: string }[],
): Sample[] {
  return states.map((state) => [{ state }, found.filter((one) => one.state === state).length]);
}

/** Names of services and states have no sign that would have to be escaped in a label. */
function metric(name: string, kind: Kind, help: string, samples: readonly Sample[]): string {
  const known = samples.filter(([, value]) => value !== undefined);
  if (known.length === 0) return '';
  const lines = known.map(([labels, value]) => {
    const pairs = Object.entries(labels).map(([label, text]) => `${label}="${text}"`);
    return `kiln_${name}${pairs.length === 0 ? '' : `{${pairs.join(',')}}`} ${value}`;
  });
  return `# HELP kiln_${name} ${help}\n# TYPE kiln_${name} ${kind}\n${lines.join('\n')}\n`;
}

/** USER_HZ, the ticks of a second in proc_pid_stat(5): 100 on every architecture of Linux that kiln runs on. */
const TICKS = 100;
const PAGE = 4096;

function daemonUsage({ root }: StatePaths): { bytes: number; cpu: number } | undefined {
  const pid = lockHolder(join(root, 'kilnd.lock'));
  const fields = pid === undefined ? undefined : statOf(pid);
  if (fields === undefined) return undefined;
  // utime, stime and rss: fields 14, 15 and 24; these begin with the third.
  const [utime = 0, stime = 0, rss = 0] = [fields[11], fields[12], fields[21]].map(Number);
  return { bytes: rss * PAGE, cpu: (utime + stime) / TICKS };
}
