import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import {
  type FarmChain,
  FarmFiles,
  findChain,
  knownChains,
  noChainError,
} from '../../farm/chain.ts';
import { whyStepsWait } from '../../farm/dag.ts';
import { queued, removeDag, requirePool, type Slot, slots } from '../../farm/pool.ts';
import { workerOf } from '../../farm/prepare.ts';
import { Reporter } from '../../farm/report.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import { flag } from '../../options/kind.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { ROOTS } from '../../options/rules.ts';
import { allowedMissing } from '../../sandbox/policy/layers.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { LogView, printJson } from '../output/print.ts';
import { type Columns, type ListOptions, printRows, printTable } from '../output/table.ts';
import { run } from './chain.ts';

const CHAIN = 'an id, the beginning of one, or a result folder (with a slash)';

const MACHINES: Columns<Slot> = [
  ['MACHINE', (slot) => slot.Name],
  ['STATE', (slot) => `${slot.State}/${slot.Activity}`],
  ['CPUS', (slot) => String(slot.Cpus)],
  ['MEMORY', (slot) => `${slot.Memory}M`],
  ['KILN', (slot) => slot.KilnVersion ?? '-'],
  ['IMAGES', (slot) => (slot.KilnImages ?? '').split(',').filter(Boolean).join(' ')],
];

function json(help: string) {
  return row(flag, ROOTS, { help });
}

export function checkCommand(caller: Caller): KilnCommand {
  return new KilnCommand('check')
    .description(
      'Check whether there is a pool, whether you may submit, and what its machines offer.',
    )
    .rows({ json: json('print the machines as one JSON array') })
    .examples('kiln farm check')
    .action(async (options: ListOptions) => {
      await requirePool(caller.ids.uid);
      const all = await slots();
      printRows(caller.stdout, MACHINES, all, options);
      const ready = all.filter(({ KilnVersion }) => KilnVersion !== undefined);
      if (ready.length > 0) return;
      const what =
        all.length === 0 ? 'the pool has no machines' : 'no machine of the pool has kiln';
      throw new KilnError('E_FARM_POOL', what, {
        hint: 'docs/farm.md: a worker has kiln, a user of group kiln for its slots, and a startd cron job that runs `kiln farm advertise`',
      });
    });
}

export function statusCommand(caller: Caller): KilnCommand {
  return new KilnCommand('status')
    .description('Show how it stands with a chain, or list your chains.')
    .argument('[chain]', 'its id, the beginning of it, or its result folder (with a slash)')
    .rows({ json: json('print JSON instead of a table') })
    .examples('kiln farm status', 'kiln farm status 3fa9c1d2')
    .action(async (name: string | undefined, options: ListOptions) => {
      if (name === undefined) await list(caller, options.json === true);
      else await show(findChain(caller.environment, name), caller, options.json === true);
    });
}

interface ListedChain extends Pick<FarmChain, 'id' | 'started'> {
  readonly state: 'running' | 'over';
  readonly packages: number;
  readonly directory: string;
}

const CHAINS: Columns<ListedChain> = [
  ['CHAIN', ({ id }) => id],
  ['STATE', ({ state }) => state],
  ['PACKAGES', ({ packages }) => String(packages)],
  ['RESULTS', ({ directory }) => directory],
];

async function list(caller: Caller, json: boolean): Promise<void> {
  const chains: ListedChain[] = [];
  for (const { id, directory } of knownChains(caller.environment)) {
    const chain = await filesIn(directory, caller).then(
      (files) => {
        using _files = files;
        return files.existing();
      },
      () => undefined,
    );
    if (chain?.id !== id) continue;
    const isRunning = chain.cluster !== null && (await queued(chain.cluster)).length > 0;
    const state = isRunning ? 'running' : 'over';
    chains.push({ id, state, packages: chain.members.length, directory, started: chain.started });
  }
  chains.sort((a, b) => b.started - a.started);
  printRows(caller.stdout, CHAINS, chains, { json });
}

/** @throws KilnError E_FARM_CHAIN, E_RESULTDIR */
export async function filesIn(directory: string, { paths }: Caller): Promise<FarmFiles> {
  const top = await paths.existing(directory);
  if (top === undefined) throw noChainError(directory);
  return FarmFiles.open(top, directory);
}

async function show(directory: string, caller: Caller, json: boolean): Promise<void> {
  using files = await filesIn(directory, caller);
  const chain = files.chain();
  const jobs = chain.cluster === null ? [] : await queued(chain.cluster);
  const rows: { name: string; state: string; worker: string; reason: string }[] = [];
  const jobOf = new Map(jobs.map((job) => [job.KilnMember, job]));
  const reporter = new Reporter(chain, files);
  const missing = jobs.some(({ JobStatus }) => JobStatus === IDLE)
    ? await whyStepsWait({
        version: KILN_VERSION,
        allowMissing: allowedMissing(caller.env),
        options: chain.options,
      })
    : undefined;
  for (const member of chain.members) {
    const report = reporter.reportOf(member);
    const job = jobOf.get(member.name);
    const isOpen = report.outcome === undefined && !member.current && jobs.length > 0;
    const state = isOpen ? (JOB_STATES[job?.JobStatus ?? 0] ?? 'waiting') : report.state;
    const { node } = member;
    const log = isOpen && node !== null ? join(files.path, node, 'log') : undefined;
    const worker = report.worker ?? (log && (await workerOf(log)));
    const waits = job?.JobStatus === IDLE ? missing : undefined;
    const reason = isOpen ? (job?.HoldReason ?? waits ?? '') : (report.reason ?? '');
    rows.push({ name: member.name, state, worker: worker ?? '', reason });
  }
  if (json) {
    printJson(caller.stdout, { id: chain.id, directory, running: jobs.length > 0, members: rows });
    return;
  }
  printTable(
    caller.stdout,
    ['PACKAGE', 'STATE', 'WORKER', 'WHY'],
    rows.map(({ name, state, worker, reason }) => [name, state, worker, reason]),
  );
  caller.stderr.say(
    `kiln: chain ${chain.id} is ${jobs.length > 0 ? 'running' : 'over'}: ${directory}\n`,
  );
}

const IDLE = 1;

/** JobStatus of a job’s ClassAd. */
const JOB_STATES: Readonly<Record<number, string>> = {
  [IDLE]: 'queued',
  2: 'building',
  5: 'held',
  6: 'building',
};

const LOGS = { follow: row(flag, ROOTS, { help: 'go on until the step ends', short: 'f' }) };

export function logsCommand(caller: Caller): KilnCommand {
  return new KilnCommand('logs')
    .description('Print the log of a step as its worker writes it.')
    .argument('<chain>', CHAIN)
    .argument('<package>', 'name-version-release')
    .rows(LOGS)
    .examples('kiln farm logs -f 3fa9c1d2 app-1-1')
    .action(async (name: string, member: string, { follow }: ValuesOf<typeof LOGS>) => {
      using files = await filesIn(findChain(caller.environment, name), caller);
      const chain = files.chain();
      const found = chain.members.find((one) => one.name === member);
      if (found === undefined || found.node === null) {
        throw new KilnError('E_FARM_CHAIN', `${member} is not built in the chain ${chain.id}`, {
          hint: `\`kiln farm status ${chain.id}\` lists its packages`,
        });
      }
      const path = join(files.path, found.node, 'log');
      using view = new LogView(() => caller.stdout);
      for (let at = 0; ; ) {
        const isOver = files.outcome(found.node) !== undefined;
        const size = (await stat(path).catch(() => undefined))?.size ?? 0;
        // Another attempt has begun a new log.
        if (size < at) at = 0;
        if (size > at) {
          for await (const chunk of createReadStream(path, { start: at, end: size - 1 })) {
            view.write(chunk as Buffer);
          }
          at = size;
        } else if (isOver || follow !== true) return;
        else await sleep(LOOK_EVERY);
      }
    });
}

/** The pause between two looks at a log, milliseconds. */
const LOOK_EVERY = 300;

export function cancelCommand(caller: Caller): KilnCommand {
  return new KilnCommand('cancel')
    .description('Take a chain and its steps out of the queue; what is built stays.')
    .argument('<chain>', CHAIN)
    .examples('kiln farm cancel 3fa9c1d2')
    .action(async (name: string) => {
      await requirePool(caller.ids.uid);
      using files = await filesIn(findChain(caller.environment, name), caller);
      const chain = files.chain();
      if (chain.cluster === null || (await queued(chain.cluster)).length === 0) {
        caller.stderr.say(`kiln: chain ${chain.id} is over\n`);
        return;
      }
      await removeDag(chain.cluster);
      while ((await queued(chain.cluster)).length > 0) await sleep(LOOK_EVERY);
      caller.stderr.say(
        `kiln: chain ${chain.id} is cancelled; kiln farm resume ${chain.id} goes on\n`,
      );
    });
}

export function resumeCommand(caller: Caller): KilnCommand {
  return new KilnCommand('resume')
    .description('Follow a chain that is running, or build what is left of one.')
    .argument('<chain>', CHAIN)
    .rows({ json: json('print chain.json as the last line of stderr') })
    .examples('kiln farm resume 3fa9c1d2')
    .action(async (name: string, options: ListOptions) => {
      const directory = findChain(caller.environment, name);
      using files = await filesIn(directory, caller);
      const chain = files.chain();
      const request = { ...chain, resultDirectory: directory, image: chain.image.name };
      await run(request, caller, { json: options.json === true, ci: 'auto', goesOn: true });
    });
}
