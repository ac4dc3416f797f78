/** `kiln run --explain-refusals`: what the walls refused, and which option would have allowed it. */
import { type EgressEntry, parseEgressRule } from '../../egress/rule.ts';
import { type FilterInForce, remedyFor } from '../../sandbox/seccomp/explain.ts';
import type { Refusal } from './result.ts';

/** Hosts, and calls, that are told of; result.json has all. */
const LINES = 100;

/** Why no option allows these, by the first part of a name. */
const NEVER: readonly (readonly [calls: RegExp, why: string])[] = [
  [/^(?:f?chmod|fchmodat2?|mknod|mknodat|open|openat|openat2|creat)$/, 'set-id files and devices'],
  [/^f?l?setxattr/, 'capabilities of files'],
  [/^socket(?:pair)?$/, 'sockets of other protocols than unix, TCP, UDP, ping and ROUTE'],
  [/^fallocate/, 'it takes the host’s disk faster than kiln can watch it'],
  [/^(?:setsockopt|ioctl|prctl|fcntl|mmap|shmget|memfd_create)$/, 'a share of the whole host'],
];

function whyNever(call: string): string {
  const found = NEVER.find(([calls]) => calls.test(call));
  return found === undefined ? 'never with these arguments' : `never: ${found[1]}`;
}

async function callLine({ syscall, action, count }: Refusal, { filter, isOffline }: Refusals) {
  const { options, isGuarded } = await remedyFor(syscall, filter);
  const internet = syscall === 'socket' && isOffline ? ['--egress HOST'] : [];
  const all = [...internet, ...options];
  const times = count === 1 ? 'once' : `${count} times`;
  const what = `${syscall} (${action}, ${times})`;
  if (all.length > 0) return `${what}: ${all.join(', or ')}`;
  if (isGuarded) return `${what}: ${whyNever(syscall)}`;
  return `${what}: no option of kiln’s; a profile of your own may (--seccomp FILE)`;
}

function hostLine({ host, port, refused, count }: EgressEntry): string {
  const place = port === 0 ? host : `${host}:${port}`;
  const times = count === 1 ? 'once' : `${count} times`;
  const isListable = refused === 'not on the list' && parseEgressRule(place) !== undefined;
  if (isListable) return `${place} (${times}): --egress ${place}`;
  const isOwn = refused?.startsWith('its address is not public') === true;
  if (isOwn) return `${place} (${times}): --egress with its address, beside its name`;
  return `${place} (${times}): never: ${refused}`;
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
    'paths: not recorded, for the kernel tells of them nobody but the command: `kiln run --seccomp build … -- strace -f -Z -e trace=%file COMMAND` shows them; --bind with rw or cow lets it write, --user read',
  ].map((line) => line.trimEnd());
}

/** Hosts that a proxy let through which learned them, as options. */
export function learnedOptions(egress: readonly EgressEntry[]): string[] {
  const places = egress
    .filter(({ refused, port }) => refused === undefined && port !== 0)
    .map(({ host, port }) => ([80, 443].includes(port) ? host : `${host}:${port}`));
  return [...new Set(places)].toSorted().map((place) => `--egress ${place}`);
}
