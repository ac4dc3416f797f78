/** `kiln stop`: what runs is asked to end, and ended after a time. */

import { setTimeout as sleep } from 'node:timers/promises';
import { endOf, Follower } from '../detached/follow.ts';
import {
  isMeant,
  jobCalled,
  type ListedJob,
  listJobs,
  sandboxMeant,
  titleOf,
} from '../detached/record.ts';
import type { OwnEngine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { until } from '../host/process/process.ts';
import { time } from '../options/numbers.ts';
import { row, type ValuesOf } from '../options/row.ts';
import { destroySandbox } from '../sandbox/domain/destroy.ts';
import { countProcesses, signalProcesses } from '../sandbox/domain/processes.ts';
import {
  type ListedSandbox,
  listSandboxes,
  type SandboxRecord,
  type SandboxState,
} from '../sandbox/domain/sandbox-record.ts';
import { connectHolder } from '../sandbox/door/holder.ts';
import { askForFile, type ProcessesAnswer, type TerminateAnswer } from '../sandbox/door/visit.ts';
import type { Caller } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';
import { inTurn } from './output/errors.ts';

/** What a run has for its results once its command has ended, milliseconds. */
const LAST_MOMENTS = 60_000;
const PAUSE = 50;

const STOP = {
  time: row(time, 'open', {
    help: 'wait for this time before what has not ended is killed',
    short: 't',
    usual: 10_000,
    usually: '10s',
  }),
};

export function stopCommand(caller: Caller): KilnCommand {
  return new KilnCommand('stop')
    .description(
      'End sandboxes and detached jobs: what runs in them gets SIGTERM, and after a time SIGKILL. A kept sandbox is destroyed then, as by `kiln kill`.',
    )
    .argument('<id...>', 'ids or names, as `kiln ps` shows them; the first digits are enough')
    .rows(STOP)
    .examples('kiln stop nightly', 'kiln stop --time 2m work')
    .action(async (words: string[], options: ValuesOf<typeof STOP>) => {
      await using engine = caller.openEngine();
      await inTurn(words, (word) => stop(word, engine, options.time, caller), caller);
    });
}

async function stop(word: string, engine: OwnEngine, within: number, caller: Caller) {
  const { paths, owner } = engine;
  const jobs = await listJobs(paths, owner);
  const running = jobs.filter(({ state }) => state === 'running');
  const job = running.some((one) => isMeant(one, word, owner))
    ? jobCalled(running, word, owner)
    : undefined;
  const sandbox =
    job === undefined
      ? sandboxMeant(jobs, word, owner, await listSandboxes(paths, engine))
      : undefined;
  const said = job
    ? await stopJob(job, engine, within)
    : sandbox && (await stopSandbox(sandbox, engine, within));
  caller.stdout.say(`${job?.record.id ?? sandbox?.id}\n`);
  caller.stderr.say(`kiln: ${said}\n`);
}

async function stopJob(job: ListedJob, { paths }: OwnEngine, within: number): Promise<string> {
  const title = `job ${titleOf(job.record)}`;
  using follower = await Follower.open(paths, job.record.id);
  let how = 'ended';
  if (follower !== undefined) {
    follower.control({ do: 'stop' });
    const given = new AbortController();
    const late = sleep(within, 'late' as const, { signal: given.signal }).catch(() => undefined);
    if ((await Promise.race([follower.over, late])) === 'late') {
      how = `did not end within ${within / 1000}s and was killed,`;
      follower.control({ do: 'end' });
    }
    given.abort();
    await follower.over;
  }
  return `${title} ${how} with status ${await endOf(paths, job)}`;
}

async function stopSandbox(
  { id, state, folder, record }: ListedSandbox,
  engine: OwnEngine,
  within: number,
): Promise<string> {
  const { paths } = engine;
  const title = `sandbox ${record.name ?? id}`;
  const [first, service] = record.command ?? [];
  if (first === 'service' && state === 'running') {
    throw new KilnError('E_ARGUMENT', `${title} is that of the service ${service}`, {
      hint: `\`kiln service stop ${service}\``,
    });
  }
  const now = async () =>
    (await listSandboxes(paths, engine)).find((sandbox) => sandbox.id === id)?.state;
  const destroy = () => destroySandbox(paths, folder, record, engine.connect);
  if (!(await terminate(record, folder, state))) {
    await destroy();
    return `${title}: nothing ran in it; it is gone`;
  }
  const isOver =
    record.machine === undefined
      ? () => countProcesses(record) === 0
      : async () => (await now()) !== 'running' || (await isIdle(folder));
  if (!(await until(isOver, within, PAUSE))) {
    await destroy();
    return `${title} did not end within ${within / 1000}s and was killed`;
  }
  // A run collects its results, then keeps its sandbox or removes it itself.
  if (state === 'running')
    await until(async () => (await now()) !== 'running', LAST_MOMENTS, PAUSE);
  if ((await now()) !== undefined) await destroy();
  return `${title} ended`;
}

/** Whether nothing runs in a machine, as whoever holds it says: it may hold it for what comes next. */
async function isIdle(folder: string): Promise<boolean> {
  const holder = connectHolder(folder);
  if (holder === undefined) return false;
  const asked = askForFile<ProcessesAnswer>(holder, { do: 'processes' });
  return (await asked.catch(() => undefined))?.processes.length === 0;
}

/** Whether something ran. @throws KilnError E_MACHINE */
async function terminate(
  record: SandboxRecord,
  folder: string,
  state: SandboxState,
): Promise<boolean> {
  // What is in a range of ids of a machine is qemu.
  if (record.machine === undefined) return signalProcesses(record, 'SIGTERM');
  if (state !== 'running') return false;
  const holder = connectHolder(folder);
  if (holder === undefined) {
    throw new KilnError('E_MACHINE', `${record.id} is a machine that takes no words now`, {
      hint: `its command begins or ends, or it is a build’s; \`kiln kill ${record.id}\` ends it at once`,
    });
  }
  const { count } = await askForFile<TerminateAnswer>(holder, { do: 'terminate' });
  return count > 0;
}
