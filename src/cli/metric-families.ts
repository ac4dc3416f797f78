/** What `kiln metrics` tells: families of samples in Prometheus' text format. */
import { statfsSync } from 'node:fs';
import { join } from 'node:path';
import { type ListedJob, listJobs } from '../detached/record.ts';
import { BUCKETS, eventTotals, type Totals } from '../events/totals.ts';
import { attempt } from '../host/calls/libc.ts';
import { lockHolder } from '../host/files/flock.ts';
import { daemonPid, embeddedFiles } from '../host/libvirt/embedded/files.ts';
import { isDead, isStopped, statOf } from '../host/process/process.ts';
import { readCounters } from '../host/state/counters.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { storeUsage } from '../image/store/gc.ts';
import { listSandboxes, SANDBOX_STATES } from '../sandbox/domain/sandbox-record.ts';
import { type ListedService, listServices } from '../service/list-services.ts';

type Kind = 'gauge' | 'counter' | 'histogram';
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

export async function metricsOf(paths: StatePaths): Promise<string> {
  const sandboxes = counted(SANDBOX_STATES, await listSandboxes(paths, { owner: undefined }));
  const listed = await listJobs(paths, undefined);
  const jobs = counted(['running', 'ended', 'lost'], listed);
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
    metric('oldest_job_age_seconds', 'gauge', 'Age of the oldest detached job that runs', [
      [{}, oldestAge(listed)],
    ]),
    ...queueMetrics(paths, daemon !== undefined),
    ...(await diskMetrics(paths)),
    ...commandMetrics(eventTotals(paths)),
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

function oldestAge(jobs: readonly ListedJob[]): number {
  const running = jobs.filter(({ state }) => state === 'running');
  const created = running.map(({ record }) => record.created);
  return created.length === 0 ? 0 : (Date.now() - Math.min(...created)) / 1000;
}

function claimsOf({ taken = 0, missed = 0 }: Readonly<Record<string, number>>): Sample[] {
  return [
    [{ result: 'taken' }, taken],
    [{ result: 'missed' }, missed],
  ];
}

/** What kilnd knows: nothing waits where none runs. */
function queueMetrics(paths: StatePaths, isUp: boolean): string[] {
  const waiting = isUp ? Object.entries(readCounters(paths, 'waiting')) : [];
  const pid = daemonPid(embeddedFiles(paths));
  const isAlive = pid !== undefined && !isDead(pid) && !isStopped(pid);
  return [
    metric('commands_waiting', 'gauge', 'Commands that wait for room, by uid', [
      ...waiting.map(([uid, count]): Sample => [{ uid }, count]),
      ...(waiting.length === 0 ? [[{ uid: 'none' }, 0] as const] : []),
    ]),
    metric(
      'parked_claims_total',
      'counter',
      'Commands that could have a parked sandbox',
      claimsOf(readCounters(paths, 'claims')),
    ),
    metric(
      'parked_machine_claims_total',
      'counter',
      'Commands that could have a parked machine',
      claimsOf(readCounters(paths, 'machine-claims')),
    ),
    metric('libvirtd_up', 'gauge', 'Whether the libvirtd of kiln runs; it ends without work', [
      [{}, Number(isAlive)],
    ]),
  ];
}

async function diskMetrics(paths: StatePaths): Promise<string[]> {
  const disk = attempt(() => statfsSync(paths.root));
  const stored = await storeUsage(paths);
  return [
    metric('disk_free_bytes', 'gauge', 'Room that is left for the state', [
      [{}, disk && disk.bavail * disk.bsize],
    ]),
    metric('disk_size_bytes', 'gauge', 'Size of the file system of the state', [
      [{}, disk && disk.blocks * disk.bsize],
    ]),
    metric('stored_bytes', 'gauge', 'What images and packages take', [
      [{ type: 'images' }, stored.images.bytes],
      [{ type: 'packages' }, stored.packages.bytes],
    ]),
    metric('unused_bytes', 'gauge', 'What kiln gc would remove of them', [
      [{ type: 'images' }, stored.imagesNotInUse.bytes],
      [{ type: 'packages' }, stored.packagesWithoutImage.bytes],
    ]),
  ];
}

function commandMetrics(totals: Totals): string[] {
  const named = (label: string, counts: Readonly<Record<string, number>>) =>
    Object.entries(counts).map(([name, count]): Sample => [{ [label]: name }, count]);
  const commands = Object.entries(totals.commands).map(([words, count]): Sample => {
    const at = words.lastIndexOf(' ');
    return [{ command: words.slice(0, at), outcome: words.slice(at + 1) }, count];
  });
  return [
    metric('commands_total', 'counter', 'Commands that have ended', commands),
    metric('failures_total', 'counter', 'Failures by code', named('code', totals.failures)),
    metric('refusals_total', 'counter', 'Commands that users may not give', [
      ...named('code', totals.refusals),
    ]),
    metric('limits_total', 'counter', 'Limits that ended commands', named('limit', totals.limits)),
    metric('egress_total', 'counter', 'What commands asked of the proxy', [
      ...named('decision', totals.egress),
    ]),
    histogram(totals),
  ];
}

function histogram({ durations, times }: Totals): string {
  const name = 'kiln_command_duration_seconds';
  const lines = Object.entries(durations).flatMap(([command, counts]) => {
    let sum = 0;
    const buckets = counts.map((count, at) => {
      sum += count;
      return `${name}_bucket{command="${command}",le="${BUCKETS[at] ?? '+Inf'}"} ${sum}`;
    });
    return [
      ...buckets,
      `${name}_sum{command="${command}"} ${(times[command] ?? 0) / 1000}`,
      `${name}_count{command="${command}"} ${sum}`,
    ];
  });
  return lines.length === 0 ? '' : family(name, 'histogram', 'Time of commands', lines);
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
  return family(`kiln_${name}`, kind, help, lines);
}

function family(name: string, kind: Kind, help: string, lines: readonly string[]): string {
  return `# HELP ${name} ${help}\n# TYPE ${name} ${kind}\n${lines.join('\n')}\n`;
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
