/** Turns what the probe found into the words of the table. */
import { capabilityNames } from '../../src/sandbox/policy/specification.ts';
import type { Measured } from './measured.ts';
import { type Around, CAPABILITIES, EVERYWHERE, SECCOMP, SOCKETS } from './table.ts';

/** What the host's kernel shows of the sandbox from outside. */
export interface Outside {
  /** The tightest limits of its control groups; Infinity for none. */
  readonly memory: number;
  readonly processes: number;
}

/** What is asked for where a door takes limits; processes that can be made beside the probe are fewer. */
const ASKED = { memory: 2 ** 30, processes: 200 };

/** Answers of the kernel that a filter could give as well. */
const AMBIGUOUS = ['EPERM', 'ENOSYS', 'EAFNOSUPPORT'];

export type Verdict = Record<keyof typeof EVERYWHERE | keyof Around, string>;

const RPMBUILDS_PIPE = 'stdin, stdout, stderr, 3 of rpmbuild’s';

/**
 * @param host what the probe found on the host, without any sandbox
 * @param outside what the host shows of the sandbox's limits
 */
export function judge(found: Measured, host: Measured, outside: Outside): Verdict {
  return {
    user: user(found),
    capabilities: capabilities(found),
    seccomp: seccomp(found, host),
    sockets: nameOf(SOCKETS, found.sockets),
    network: choose(found.network.loopback, {
      ...{ ECONNREFUSED: 'its own', done: 'the host’s', ENOSYS: 'no sockets', EPERM: 'no sockets' },
    }),
    'abstract sockets':
      found.network['own abstract'] === 'done'
        ? choose(found.network.abstract, { ECONNREFUSED: 'elsewhere', EPERM: 'closed' })
        : 'its own do not work either',
    Landlock: choose(found.whiteout, { EACCES: 'files', done: '–' }),
    'set-id': choose(found.setId, { done: 'allowed', EPERM: 'refused' }),
    'new namespaces': list(Object.keys(found.made).filter((kind) => found.made[kind] === 'done')),
    'host’s files': list(found.hostFiles),
    mounted: found.mounts
      .map(([path]) => path)
      .filter((path) => !/^\/(?:dev(?:\/.*)?|proc)?$/.test(path))
      .sort()
      .join(' '),
    limits: limits(found, outside),
    no_new_privs: found.noNewPrivileges === 1 && found.seccomp === 2 ? 'set' : 'not set',
    ids: ids(found),
    namespaces: namespaces(found, host),
    descriptors: descriptors(found),
    mounts: mounts(found),
    devices: [...found.devices].sort().join(' '),
    'core dumps': coreDumps(found),
    'shares of the host’s': shares(found),
    environment: found.environment === '' ? EVERYWHERE.environment : found.environment,
  };
}

function choose(answer: string, words: Readonly<Record<string, string>>): string {
  return words[answer] ?? answer;
}

function nameOf(
  known: Readonly<Record<string, readonly string[]>>,
  found: readonly string[],
): string {
  const entry = Object.entries(known).find(([, wanted]) => same(wanted, found));
  return entry?.[0] ?? found.join(', ');
}

function list(names: readonly string[]): string {
  return names.length === 0 ? '–' : names.join(', ');
}

function same(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((name) => other.includes(name));
}

function user({ ids: { uid, gid, groups } }: Measured): string {
  const [id = -1] = uid;
  const all = [...uid, ...gid].every((it) => it === id) && groups.every((group) => group === id);
  const name = { 0: 'root', 1000: 'build' }[id];
  return all && name !== undefined ? name : `${uid.join('/')} ${gid.join('/')} ${groups.join(',')}`;
}

function capabilities({ capabilities: sets }: Measured): string {
  const { effective, permitted, inheritable, bounding, ambient } = sets;
  const text = JSON.stringify(sets);
  if (permitted !== effective || bounding !== effective || inheritable !== ambient) return text;
  // Those of another user come by the ambient set (capabilities(7)); root needs none there.
  if (ambient !== '0' && ambient !== effective) return text;
  const names = capabilityNames(BigInt(`0x${effective}`));
  const known = Object.entries(CAPABILITIES).find(([, wanted]) => same(wanted, names));
  return known?.[0] ?? names.join(' ');
}

function seccomp({ calls }: Measured, { calls: kernel }: Measured): string {
  const told = (call: string) => !AMBIGUOUS.includes(kernel[call] ?? 'ENOSYS');
  const through = Object.keys(calls).filter((call) => told(call) && calls[call] === kernel[call]);
  const known = Object.entries(SECCOMP).find(([, wanted]) => same(wanted.filter(told), through));
  return known?.[0] ?? `lets through ${through.join(' ')}`;
}

function ids({ ids: { uidMap, gidMap } }: Measured): string {
  const [[inside, outside = 0, count] = []] = uidMap;
  const whole = uidMap.length === 1 && inside === 0 && outside >= 65536 && count === 65536;
  const both = JSON.stringify(uidMap) === JSON.stringify(gidMap);
  return whole && both ? EVERYWHERE.ids : JSON.stringify([uidMap, gidMap]);
}

function namespaces(found: Measured, host: Measured): string {
  const shared = Object.keys(host.namespaces).filter(
    (kind) =>
      found.namespaces[kind] === undefined || found.namespaces[kind] === host.namespaces[kind],
  );
  const expected = found.network.loopback === 'ECONNREFUSED' ? [] : ['net'];
  // A machine shares none, whatever its network is.
  return shared.length === 0 || same(shared, expected)
    ? EVERYWHERE.namespaces
    : `the host’s: ${shared.join(' ')}`;
}

function descriptors({ descriptors: all }: Measured): string {
  const more = Object.entries(all).filter(([fd]) => Number(fd) > 2);
  if (more.length === 0) return EVERYWHERE.descriptors;
  const one = more.length === 1 && more[0]?.[0] === '3' && more[0][1].startsWith('pipe:');
  return one ? RPMBUILDS_PIPE : more.map((it) => it.join(' ')).join(', ');
}

function mounts({ mounts: all }: Measured): string {
  const odd = all.filter(([path, , options]) => {
    const device = /^\/dev\/(?:console|full|null|pts|random|tty|urandom|zero)$/.test(path);
    return !options.includes('s') || !(options.includes('d') || device);
  });
  return odd.length === 0 && all.length > 0
    ? EVERYWHERE.mounts
    : odd.map(([path]) => path).join(' ');
}

/** 1 and not 0: with 0 a program in core_pattern(5) gets to see a dump all the same. */
function coreDumps({ core }: Measured): string {
  const none = core.limit.every((it) => it === 1) && core.changed === 'EPERM' && !core.dumped;
  return none ? EVERYWHERE['core dumps'] : JSON.stringify(core);
}

/** A command beside it in the same sandbox may have some. */
function shares({ shares: found }: Measured): string {
  const { terminals, signals, netlink, inotify, inotifyShare, aio } = found;
  const within = terminals <= 64 && signals <= 1024 && netlink <= 32 && inotify <= inotifyShare;
  const some = Math.min(terminals, signals, netlink, inotify) > 0;
  return within && some && aio === 'ENOSYS'
    ? EVERYWHERE['shares of the host’s']
    : JSON.stringify(found);
}

function limits({ processes }: Measured, outside: Outside): string {
  const tried = processes < ASKED.processes;
  if (tried && outside.processes <= ASKED.processes && outside.memory === ASKED.memory) {
    return 'as asked';
  }
  const some = outside.processes === 8192 && Number.isFinite(outside.memory);
  return some && !tried ? 'default' : `${processes} processes of ${JSON.stringify(outside)}`;
}
