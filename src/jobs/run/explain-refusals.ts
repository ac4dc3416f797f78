/** `kiln run --explain-refusals`: what the walls refused, and which option would have allowed it. */
import { allowingOption, type EgressEntry, placeOf } from '../../egress/rule.ts';
import type { Capability } from '../../host/process/process.ts';
import { type FilterInForce, remedyFor } from '../../sandbox/seccomp/explain.ts';
import type { Refusal } from './result.ts';

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
    'paths: not recorded, for the kernel tells of them nobody but the command: `kiln run --seccomp build … -- strace -f -Z -e trace=%file COMMAND` shows them; --bind with rw or cow lets the command write there, --user may let it read',
  ].map((line) => line.trimEnd());
}

/** Hosts that a proxy let through which learned them, as options. */
export function learnedOptions(egress: readonly EgressEntry[]): string[] {
  const places = egress
    .filter(({ refused, port }) => refused === undefined && port !== 0)
    .map(({ host, port }) => ([80, 443].includes(port) ? host : `${host}:${port}`));
  return [...new Set(places)].toSorted().map((place) => `--egress ${place}`);
}
