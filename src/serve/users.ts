import { totalmem } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OptionCaller, PathCaller } from '../cli/caller/caller.ts';
import { counted } from '../counted.ts';
import type { PeerIdentity } from '../daemon/peer.ts';
import type { Engine, EngineOptions, EngineOwner, OwnEngine } from '../engine.ts';
import type { CgroupLimits } from '../host/cgroup/cgroup-files.ts';
import { writeCounters } from '../host/state/counters.ts';
import { awaitedLater } from '../promise.ts';
import { hasProcesses } from '../sandbox/domain/ending.ts';
import { isOver, listSandboxes } from '../sandbox/domain/sandbox-record.ts';
import { allowedMissing } from '../sandbox/policy/layers.ts';
import { listedGroups } from '../users/account.ts';
import {
  type CallerUser,
  currentConfiguration,
  forbiddenError,
  groupNumber,
  seesImage,
  shareOf,
  type UserPolicy,
} from '../users/configuration.ts';
import { UserJobs } from '../users/queue.ts';

/** All users together may have so many workers at a time for commands that open no sandbox: some stay free for root. */
const ALL_ASIDES = 16;
/** And so many for further commands in sandboxes. */
const ALL_VISITS = 8;

/** How much of kiln users have at a time. */
export interface Shares {
  /** The path of root's kiln.yaml. */
  readonly configuration: string;
  readonly jobs: UserJobs;
  readonly asides: UserJobs;
  readonly visits: UserJobs;
}

export function sharesBy(configuration: string): Shares {
  return {
    configuration,
    jobs: new UserJobs(),
    asides: new UserJobs(ALL_ASIDES),
    visits: new UserJobs(ALL_VISITS),
  };
}

interface Place {
  readonly engine: Engine;
  readonly users: Shares;
}

/** The caller as the kernel reports it. @throws RecipeError where root's configuration cannot be used */
export function userOf({ uid, gid, groups }: PeerIdentity, configuration: string): CallerUser {
  const { policy } = currentConfiguration(configuration);
  return { uid, gid, groups, policy, files: undefined, process: undefined };
}

export function ownerOf({ uid, gid, groups, policy, files }: CallerUser): EngineOwner {
  const seesOfRoot: EngineOwner['seesOfRoot'] = (image) => seesImage(policy, image);
  return { uid, gid, groups, files, seesOfRoot, share: shareOf(policy) };
}

/** The engine of one caller of several, who share this process's connection. */
export function engineFor(
  own: Engine,
  env: OptionCaller['env'],
  { user, paths }: PathCaller,
  { allowHost = false }: EngineOptions = {},
): OwnEngine {
  return {
    ...own,
    owner: user && ownerOf(user),
    renamed: (value) => paths.renamed(value),
    holdName: (path) => paths.holdName(path),
    allowMissing: () => allowedMissing(env),
    allowHost: () => allowHost,
    // Unlike arguments, the environment is the user's own.
    signingPassphrase: () => env.KILN_SIGN_PASSPHRASE,
    close: async () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  };
}

/** Least memory of the processes that work for a user: reading a distribution's packages takes a quarter. */
const WORK_MEMORY = 2 ** 31;

/** What those may take, all of a user's together: as much as one sandbox, but enough to work. */
export function workLimits(policy: UserPolicy): CgroupLimits {
  const { memory, cpus } = shareOf(policy);
  const least = Math.min(WORK_MEMORY, Math.floor(totalmem() / 2));
  return {
    memory: Math.max(memory, least),
    ...(cpus === undefined ? {} : { cpus: Math.max(cpus, 1) }),
  };
}

const WITHOUT_SANDBOX = [
  ...['ps', 'kill', 'gc', 'df', 'config', 'events', 'attach', 'wait', 'logs', 'results'],
];

/** What looks into a sandbox that is there, or at a snapshot, and makes none. */
const ENTERING_KEPT = ['cp', 'diff', 'apply', 'discard', 'snapshot', 'rollback'];

/** How long a wait may be that nobody is told of, ms. */
const SAID_AFTER = 500;
/** Between two looks whether a sandbox that nobody has has ended, ms. */
const LOOK = 500;

/** Jobs without a sandbox that each user may have at a time. */
const ASIDES = 2;

interface JobCaller {
  /** The job needs no process of its own. */
  readonly isShort: boolean;
  readonly signal: AbortSignal;
  readonly say: (text: string) => void;
}

/**
 * Waits until a user may have one more job, and counts it until it is disposed of. Undefined where `signal` came first.
 * @param words the command line that asks for it, or has a call's rules
 */
export async function beginJob(
  words: readonly string[],
  user: CallerUser,
  caller: JobCaller,
  place: Place,
): Promise<Disposable | undefined> {
  let timer: NodeJS.Timeout | undefined;
  let wasMember: Promise<boolean | undefined> | undefined;
  // Most waits are for a sandbox that is about to be gone.
  let counted: Disposable | undefined;
  const waits = (whom: string) => () => {
    counted ??= countWaiting(user.uid, place);
    timer ??= setTimeout(() => caller.say(`waiting until one of ${whom}`), SAID_AFTER);
    // Some are members otherwise, such as services by their unit: their account is not listed.
    wasMember ??= awaitedLater(isMember(user));
  };
  try {
    const job = await turnOf(words, user, caller, waits, place);
    const isGone = timer !== undefined && (await wasMember) === true && !(await isMember(user));
    if (!isGone) return job;
    job?.[Symbol.dispose]();
    throw forbiddenError('kiln', 'you have left the group that may use it');
  } finally {
    counted?.[Symbol.dispose]();
    clearTimeout(timer);
  }
}

const waiting = new Map<number, number>();

/** For `kiln metrics`: commands that wait, by uid. */
function countWaiting(uid: number, { engine: { paths } }: Place): Disposable {
  const count = (more: number) => {
    const now = (waiting.get(uid) ?? 0) + more;
    if (now > 0) waiting.set(uid, now);
    else waiting.delete(uid);
    writeCounters(paths, 'waiting', Object.fromEntries(waiting));
  };
  count(1);
  return { [Symbol.dispose]: () => count(-1) };
}

/** Whether the account is listed in the group now; undefined where nobody tells. */
async function isMember({ uid, policy }: CallerUser): Promise<boolean | undefined> {
  const group = groupNumber(policy.group);
  const groups = await listedGroups(uid);
  return groups && group !== undefined && groups.includes(group);
}

async function turnOf(
  [name = '', ...words]: readonly string[],
  user: CallerUser,
  { isShort, signal }: JobCaller,
  waits: (whom: string) => () => void,
  { engine, users }: Place,
): Promise<Disposable | undefined> {
  const { uid, policy } = user;
  const { sandboxes } = policy.limits;
  if (WITHOUT_SANDBOX.includes(name) || (name === 'farm' && words[0] === 'advertise')) {
    if (isShort) return { [Symbol.dispose]: () => undefined };
    const others = waits('your other commands ends');
    return await users.asides.begin({ uid, most: ASIDES }, others, signal);
  }
  if (entersOnly(name, words)) {
    const others = waits('your other commands in sandboxes ends');
    return await users.visits.begin({ uid, most: sandboxes }, others, signal);
  }
  for (;;) {
    const room = await roomFor(user, engine);
    const one = waits(
      `your ${counted(sandboxes, 'sandbox', 'sandboxes')} ends (users.limits.sandboxes)`,
    );
    if (room <= 0) {
      one();
      await sleep(LOOK, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return undefined;
      continue;
    }
    const job = await users.jobs.begin({ uid, most: room }, one, signal);
    if (job === undefined) return undefined;
    // While it waited, other sandboxes may have been kept.
    const still = await roomFor(user, engine).catch((error) => {
      job[Symbol.dispose]();
      throw error;
    });
    const isOver = signal.aborted;
    if (!isOver && users.jobs.running(uid) <= still) return job;
    job[Symbol.dispose]();
    if (isOver) return undefined;
  }
}

/** Steps of a GitLab job that open no sandbox. */
const ENTERING: readonly string[] = ['config', 'run', 'cleanup'];

/** Only words that cannot mean anything else: other ones need room for a sandbox of their own. */
function entersOnly(name: string, words: readonly string[]): boolean {
  if (name === 'shell') return words.length === 1 && !words[0]?.startsWith('-');
  // The first step of a CI job opens its sandbox; what comes after enters that.
  if (name === 'ci') return words[0] === 'gitlab' && ENTERING.includes(words[1] ?? '');
  if (ENTERING_KEPT.includes(name)) return true;
  return name === 'exec' || (name === 'build' && words[0] === '--resume');
}

/** Room for a sandbox beside the one of a command; who waits for room comes first. @throws KilnError E_FORBIDDEN */
export async function furtherRoom(
  user: CallerUser,
  { engine, users }: Place,
): Promise<Disposable | undefined> {
  return users.jobs.tryBegin({ uid: user.uid, most: await roomFor(user, engine) });
}

/**
 * How many commands may run at a time beside what the user keeps, and what does not end. A kept sandbox counts whether
 * somebody is in it or not, so entering one takes no room. @throws KilnError E_FORBIDDEN
 */
async function roomFor(user: CallerUser, { paths }: Engine): Promise<number> {
  const sandboxes = await listSandboxes(paths, { owner: user });
  const kept = sandboxes.filter(
    ({ state, record }) =>
      state === 'kept' || (state === 'running' && record.keepUntil !== undefined),
  );
  // Nobody has these any more, but their processes are there, and their memory.
  const left = sandboxes.filter(
    ({ state, record }) => (state === 'ending' || isOver(state)) && hasProcesses(record.init),
  );
  const room = user.policy.limits.sandboxes - kept.length;
  if (room > 0) return room - left.length;
  throw forbiddenError(
    `a further sandbox beside ${kept.length} that you keep`,
    'they count as well',
    {
      hint: '`kiln ps` lists them, `kiln kill ID` ends one; root sets users.limits.sandboxes',
    },
  );
}
