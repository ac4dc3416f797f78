/** `kiln run --explain-refusals`: what the walls refused, and which option would have allowed it. */
import { allowingOption, type EgressEntry, placeOf } from '../../egress/rule.ts';
import type { Capability } from '../../host/process/process.ts';
import { PROTECTED } from '../../sandbox/policy/protected.ts';
import { type FilterInForce, remedyFor } from '../../sandbox/seccomp/explain.ts';
import type { RefusedPath } from './refused-paths.ts';
import type { RunRequest } from './request.ts';
import type { Refusal } from './result.ts';
import type { RunReport } from './run.ts';

/** Hosts, and calls, that are told of; result.json has all. */
const LINES = 100;

/** Why no option allows these, by the first part of a name. */
const NEVER: readonly (readonly [calls: RegExp, why: string])[] = [
  [/^(?:f?chmod|fchmodat2?|mknod|mknodat|open|openat|openat2|creat)$/, 'set-id files and devices'],
  [/^f?l?setxattr/, 'capabilities of files'],
  [/^socket(?:pair)?$/, 'other protocols than unix, TCP, UDP, ping and ROUTE'],
  [/^fallocate/, 'it takes the host’s disk faster than kiln can watch it'],
  [/^(?:setsockopt|ioctl|prctl|fcntl|mmap|shmget|memfd_create)$/, 'a share of the whole host'],
];

function whyNever(call: string): string {
  const found = NEVER.find(([calls]) => calls.test(call));
  return found === undefined ? 'never with these arguments' : `never: ${found[1]}`;
}

/** What kiln’s guards, which stand before every profile, let a call do that holds a capability. */
const WITH_CAPABILITY: readonly (readonly [call: string, Capability, what: string])[] = [
  ['socket', 'NET_RAW', 'raw and packet sockets'],
  ['socket', 'NET_ADMIN', 'netfilter’s sockets'],
  ['setsockopt', 'NET_RAW', 'filters on sockets'],
  ['ioctl', 'NET_ADMIN', 'bridges and VLANs'],
];

const timesOf = (count: number) => (count === 1 ? 'once' : `${count} times`);

async function callLine({ syscall, action, count }: Refusal, { filter, isOffline }: Refusals) {
  const { options, isGuarded } = await remedyFor(syscall, filter);
  const internet = syscall === 'socket' && isOffline ? ['--egress HOST'] : [];
  const all = [...internet, ...options];
  const what = `${syscall} (${action}, ${timesOf(count)})`;
  if (all.length > 0) return `${what}: ${all.join(', or ')}`;
  if (isGuarded) {
    const some = WITH_CAPABILITY.filter(
      ([call, name]) => call === syscall && !filter.capabilities.includes(name),
    ).map(([, name, allowed]) => `--cap-add ${name} for ${allowed}`);
    return `${what}: ${[...some, whyNever(syscall)].join('; ')}`;
  }
  return `${what}: no option of kiln’s; a profile of your own may (--seccomp FILE)`;
}

function hostLine(entry: EgressEntry): string {
  const { refused, count } = entry;
  const option = allowingOption(entry) ?? `never: ${refused}`;
  return `${placeOf(entry)} (${timesOf(count)}): ${option}`;
}

export interface Refusals {
  /** Undefined where this host cannot count refused calls. */
  readonly calls: readonly Refusal[] | undefined;
  readonly egress: readonly EgressEntry[];
  readonly filter: FilterInForce;
  /** Kiln’s own variant of the profile for sandboxes without a network is in force. */
  readonly isOffline: boolean;
  readonly request: RunRequest;
  readonly report: RunReport;
}

/** What shows or sets something of the host’s kernel, whoever asks. */
const KERNELS = /^\/(?:sys|proc\/(?!\d|self|thread-self)|dev\/(?!shm|pts|mqueue))/;

const isBelow = (path: string, top: string) => path === top || path.startsWith(`${top}/`);

function writeOption(path: string, { request, report }: Refusals): string {
  const { binds, tmpfs, protect = [], readOnly } = request;
  const bind = binds
    .filter(({ target }) => isBelow(path, target))
    .reduce<RunRequest['binds'][number] | undefined>(
      (one, other) => (one && one.target.length > other.target.length ? one : other),
      undefined,
    );
  const folder = path.slice(0, path.lastIndexOf('/')) || '/';
  if (isBelow(path, '/run/secrets')) return 'never: secrets are only read';
  if (bind?.readonly === true) return `--bind ${bind.source}:${bind.target}, or with :cow`;
  if (bind !== undefined) {
    const below = path.slice(bind.target.length + 1);
    if (protect.some((name) => isBelow(below, name))) return 'leave --protect out for it';
    if (PROTECTED.some((name) => isBelow(below, name))) return '--no-protect';
    return 'no option of kiln’s: the host’s file system is read-only';
  }
  const instead = `--bind FOLDER:${folder}, or --tmpfs ${folder}, in place of what is there`;
  if (report.image.name === 'host' && isBelow(path, '/usr'))
    return `-r IMAGE, as the host’s own /usr is only read; or ${instead}`;
  return readOnly === true && tmpfs.every(({ target }) => !isBelow(path, target))
    ? `leave --read-only out, or ${instead}`
    : instead;
}

function pathOption({ path, syscall, error }: RefusedPath, refusals: Refusals): string {
  const { calls = [], report, request } = refusals;
  const { uid, capabilities } = report.measured;
  const isOpen = /^(?:open|creat)/.test(syscall);
  if (!isOpen && calls.some((one) => one.syscall === syscall && one.action === error))
    return 'the filter refused such calls, as said above';
  if (KERNELS.test(path)) return 'never: it is of the host’s kernel';
  if (error === 'EROFS') return writeOption(path, refusals);
  if (request.binds.some(({ target }) => isBelow(path, target)))
    return 'no option of kiln’s: its owner and its mode on the host decide';
  if (syscall.startsWith('exec')) return 'no option of kiln’s: it cannot be executed (chmod +x)';
  if (uid !== 0) return '--user root';
  return capabilities.effective.includes('DAC_OVERRIDE')
    ? 'no option of kiln’s: not even root of the sandbox may'
    : '--cap-add DAC_OVERRIDE';
}

function pathLine(one: RefusedPath, refusals: Refusals): string {
  const { path, syscall, error, count } = one;
  const what = `${JSON.stringify(path)} (${syscall}: ${error}, ${timesOf(count)})`;
  return `${what}: ${pathOption(one, refusals)}`;
}

function pathLines(refusals: Refusals): string[] {
  const { paths, more = 0, reason = 'nobody listened' } = refusals.report.refusedPaths ?? {};
  if (paths === undefined) return [`paths that were refused: not recorded: ${reason}`];
  return [
    `paths that were refused: ${paths.length === 0 ? 'none' : ''}`,
    ...paths.map((one) => `  ${pathLine(one, refusals)}`),
    ...(more > 0 ? [`  ${more} more refusals, of other paths, are not told`] : []),
  ];
}

/** Lines for people. */
export async function explainRefusals(refusals: Refusals): Promise<string[]> {
  const { calls, egress } = refusals;
  const counted = calls ?? [];
  const told: string[] = [];
  for (const call of counted.slice(0, LINES)) told.push(await callLine(call, refusals));
  const refused = egress.filter((entry) => entry.refused !== undefined);
  const left = Math.max(0, counted.length - LINES) + Math.max(0, refused.length - LINES);
  return [
    `system calls that the filter refused: ${calls === undefined ? 'unknown, this kernel tells of none' : counted.length === 0 ? 'none' : ''}`,
    ...told.map((line) => `  ${line}`),
    `hosts that the proxy refused: ${refused.length === 0 ? 'none' : ''}`,
    ...refused.slice(0, LINES).map((entry) => `  ${hostLine(entry)}`),
    ...(left > 0 ? [`${left} more are in result.json`] : []),
    ...pathLines(refusals),
  ].map((line) => line.trimEnd());
}

/** Hosts that a proxy let through which learned them, as options. */
export function learnedOptions(egress: readonly EgressEntry[]): string[] {
  const places = egress
    .filter(({ refused, port }) => refused === undefined && port !== 0)
    .map(({ host, port }) => ([80, 443].includes(port) ? host : `${host}:${port}`));
  return [...new Set(places)].toSorted().map((place) => `--egress ${place}`);
}
