/** What sandboxes use now, and what runs in them: `kiln stats`, `kiln top`. */
import { setTimeout as sleep } from 'node:timers/promises';
import { defined } from '../defined.ts';
import { listJobs, sandboxMeant } from '../detached/record.ts';
import type { Engine, OwnEngine } from '../engine.ts';
import { attempt } from '../host/calls/libc.ts';
import { sizeText } from '../host/calls/system-error.ts';
import { ProcessCgroups } from '../host/cgroup/cgroup-files.ts';
import { readManifest } from '../image/store/manifest.ts';
import { flag, negation } from '../options/kind.ts';
import { row, type ValuesOf } from '../options/row.ts';
import type { ProcessInside } from '../sandbox/domain/ground.ts';
import {
  countProcesses,
  type SandboxedProcess,
  sandboxProcesses,
} from '../sandbox/domain/processes.ts';
import {
  accountedProcess,
  type ListedSandbox,
  listSandboxes,
  type SandboxRecord,
  type SandboxUsage,
  sandboxUsage,
} from '../sandbox/domain/sandbox-record.ts';
import { askForFile, type ProcessesAnswer } from '../sandbox/door/visit.ts';
import { PORT } from '../sandbox/wire/port.ts';
import { instanceFiles } from '../service/lifecycle/store.ts';
import { askSupervisor, notRunningError } from '../service/supervisor/supervisor-client.ts';
import { type Caller, listenForInterruption } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';
import { type Columns, isTable, listing, printRows } from './output/table.ts';
import { atSandbox, sandboxOf } from './shell.ts';

/** Between two tables, and between the two looks that a share of processors needs, milliseconds. */
const PERIOD = 1000;
const GLANCE = 500;

/** Of a terminal: the cursor goes to the top, and what was below it goes. */
const AGAIN = '\x1b[H\x1b[J';

const STATS = {
  all: row(flag, 'open', { help: 'parked sandboxes as well', short: 'a' }),
  stream: row(negation, 'open', { help: 'print once, and end', usual: true }),
  ...listing('{{.Name}} {{.Memory}}', 'print a JSON array for each table'),
};

interface Stats extends SandboxUsage {
  readonly id: string;
  readonly name?: string;
  readonly state: string;
  readonly cpuPercent?: number;
  readonly memoryLimitBytes?: number;
  /** Undefined where another kernel has them. */
  readonly pids?: number;
  readonly pidsLimit?: number;
}

const shown = (bytes: number | undefined) => (bytes === undefined ? '' : sizeText(bytes));

const STATS_COLUMNS: Columns<Stats> = [
  ['ID', ({ id }) => id],
  ['NAME', ({ name = '' }) => name],
  ['CPU', ({ cpuPercent: share }) => (share === undefined ? '' : `${share.toFixed(1)}%`)],
  ['MEMORY', ({ memoryBytes }) => shown(memoryBytes)],
  ['LIMIT', ({ memoryLimitBytes }) => shown(memoryLimitBytes)],
  ['PIDS', ({ pids }) => `${pids ?? ''}`],
  ['DISK', ({ sizeBytes }) => shown(sizeBytes)],
  ['STATE', ({ state }) => state],
];

export function statsCommand(caller: Caller): KilnCommand {
  return new KilnCommand('stats')
    .description(
      'Show what sandboxes use now: processors (100% is one), memory and its limit, processes, and in DISK what they have written to their own file systems, which are in memory. Each second again, until interrupted.',
    )
    .argument('[id...]', 'ids or names, as `kiln ps` shows them; all unless given')
    .rows(STATS)
    .examples(
      'kiln stats',
      'kiln stats --no-stream --format "{{.Name}} {{.Cpu}} {{.Memory}}" work',
      'kiln stats --no-stream --json | jq ".[].memoryBytes"',
    )
    .action(async (words: string[], options: ValuesOf<typeof STATS>) => {
      await using engine = caller.openEngine();
      using interruption = listenForInterruption(caller);
      const { signal } = interruption;
      const looked = new Looks();
      const wanted = await idsOf(engine, words);
      const look = async () => {
        const listed = await listSandboxes(engine.paths, engine);
        const those = listed.filter(({ id, state }) =>
          wanted === undefined ? options.all === true || state !== 'parked' : wanted.includes(id),
        );
        return those.map((sandbox) => looked.at(engine, sandbox));
      };
      await look();
      for (let pause = GLANCE; !signal.aborted; pause = PERIOD) {
        await sleep(pause, undefined, { signal }).catch(() => undefined);
        if (signal.aborted || caller.stdout.stream.destroyed) break;
        const rows = await look();
        if (options.stream && caller.stdout.isTTY && isTable(options)) caller.stdout.write(AGAIN);
        printRows(caller.stdout, STATS_COLUMNS, rows, options);
        const isOver = wanted !== undefined && rows.length === 0;
        if (!options.stream || isOver) break;
      }
    });
}

/** Undefined for all. @throws KilnError E_NO_SANDBOX */
async function idsOf(engine: Engine, words: readonly string[]) {
  if (words.length === 0) return undefined;
  const { paths, owner } = engine;
  const [jobs, listed] = [await listJobs(paths, owner), await listSandboxes(paths, engine)];
  return words.map((word) => sandboxMeant(jobs, word, owner, listed).id);
}

/** Remembers how much of the processors each sandbox had taken when it was looked at. */
class Looks {
  readonly #last = new Map<string, { readonly at: number; readonly microseconds: number }>();

  at({ paths }: Engine, { id, state, record }: ListedSandbox): Stats {
    const pid = accountedProcess(paths, record);
    const groups = pid === undefined ? undefined : attempt(() => ProcessCgroups.of(pid));
    const { cpuMicroseconds: microseconds } = groups?.usage(record.domain) ?? {};
    const limits = groups?.limits(record.domain) ?? {};
    const [now, before] = [performance.now(), this.#last.get(id)];
    if (microseconds !== undefined) this.#last.set(id, { at: now, microseconds });
    const share =
      microseconds === undefined || before === undefined || groups === undefined
        ? undefined
        : (microseconds - before.microseconds) / ((now - before.at) * 10);
    const pids = record.machine === undefined && groups ? countProcesses(record) : undefined;
    return {
      ...{ id, state, ...sandboxUsage(paths, record) },
      ...defined({
        ...{
          name: record.name ?? record.knownAs,
          pids,
          pidsLimit: limits.pids,
          memoryLimitBytes: limits.memory,
        },
        cpuPercent: share && Math.round(share * 10) / 10,
      }),
    };
  }
}

const TOP = listing('{{.Pid}} {{.Command}}');

interface ShownProcess extends Omit<SandboxedProcess, 'hostPid'> {
  /** Undefined in a machine. */
  readonly hostPid?: number;
  readonly user: string;
}

const TOP_COLUMNS: Columns<ShownProcess> = [
  ['PID', ({ pid }) => `${pid}`],
  ['PPID', ({ parent }) => `${parent}`],
  ['USER', ({ user }) => user],
  ['STATE', ({ state }) => state],
  ['TIME', ({ cpuMilliseconds }) => `${(cpuMilliseconds / 1000).toFixed(2)}s`],
  ['MEMORY', ({ residentBytes }) => sizeText(residentBytes)],
  ['HOST PID', ({ hostPid }) => `${hostPid ?? ''}`],
  ['COMMAND', ({ command }) => command.join(' ').slice(0, 200)],
];

export function topCommand(caller: Caller): KilnCommand {
  return new KilnCommand('top')
    .description(
      'List the processes in a sandbox, as this host’s kernel has them: nothing in the sandbox is asked, so its image needs no ps. Those of a machine are as its own kernel tells.',
    )
    .argument('<id>', 'the id or name of a sandbox or a job, as `kiln ps` shows it')
    .rows(TOP)
    .examples('kiln top work', 'kiln top nightly --format "{{.HostPid}} {{.Command}}"')
    .action(async (word: string, options: ValuesOf<typeof TOP>) => {
      await using engine = caller.openEngine();
      const { id, record } = await sandboxOf(engine, word);
      if (record.machine !== undefined) {
        const told = `kiln: ${id} is a machine: its own kernel tells this, which may be broken\n`;
        caller.stderr.say(told);
      }
      const image =
        record.image === undefined ? undefined : readManifest(engine.paths, record.image);
      const processes =
        record.machine === undefined
          ? await sandboxProcesses(record)
          : await processesOfMachine(engine, id, record);
      const named = processes.map((process) => {
        const account = image?.accounts.find(({ uid }) => uid === process.uid);
        return { ...process, user: account?.name ?? `${process.uid ?? '?'}` };
      });
      printRows(caller.stdout, TOP_COLUMNS, named, options);
    });
}

/** Whoever holds the machine asks it. @throws KilnError E_NO_SANDBOX, E_SANDBOX_GONE, E_MACHINE */
async function processesOfMachine(engine: OwnEngine, id: string, record: SandboxRecord) {
  const found = await toldBy(engine, id, record);
  const { base, count } = PORT.ids;
  return found.map(({ uid, session: _, ...process }) => ({
    ...process,
    uid: uid >= base && uid < base + count ? uid - base : undefined,
  }));
}

async function toldBy(
  engine: OwnEngine,
  id: string,
  { command: [first, service = ''] = [] }: SandboxRecord,
): Promise<readonly ProcessInside[]> {
  const asks = { do: 'processes' } as const;
  if (first === 'service') {
    const files = instanceFiles(engine.paths, service);
    const answer = await askSupervisor<ProcessesAnswer>(files, asks);
    if (answer === undefined) throw notRunningError(service);
    return answer.processes;
  }
  return await atSandbox(engine, id, {
    kept: async ({ sandbox }) => await sandbox.tree.processes(),
    held: async (holder) => (await askForFile<ProcessesAnswer>(holder, asks)).processes,
  });
}
