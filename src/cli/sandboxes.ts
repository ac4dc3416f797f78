import { setImmediate } from 'node:timers/promises';
import type { ParkedSandboxes, Parking } from '../daemon/parked.ts';
import { Follower } from '../detached/follow.ts';
import { isMeant, jobCalled, type ListedJob, listJobs, sandboxMeant } from '../detached/record.ts';
import { KilnError } from '../errors.ts';
import { sizeText } from '../host/calls/system-error.ts';
import { requireState, type StatePaths, statePaths } from '../host/state/paths.ts';
import { readManifest } from '../image/store/manifest.ts';
import { flag } from '../options/kind.ts';
import { count } from '../options/numbers.ts';
import { row, type ValuesOf } from '../options/row.ts';
import { ROOTS } from '../options/rules.ts';
import { quiet, SANDBOX } from '../options/sandbox.ts';
import { allEnds } from '../promise.ts';
import { destroySandbox } from '../sandbox/domain/destroy.ts';
import { type EndlessProcess, endlessProcesses, whyEndless } from '../sandbox/domain/ending.ts';
import {
  type ListedSandbox,
  listSandboxes,
  type SandboxUsage,
  sandboxUsage,
} from '../sandbox/domain/sandbox-record.ts';
import { type Caller, requireHost } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';
import { watchProgress } from './output/progress.ts';
import { type Columns, isJson, isTable, listing, printRows } from './output/table.ts';

const PS = {
  all: row(flag, 'open', { help: 'list parked sandboxes and ended jobs as well', short: 'a' }),
  jobs: row(flag, 'open', { help: 'list detached jobs only, also those that have ended' }),
  ...listing(
    '{{.ID}} {{.State}}',
    'print one JSON array instead of a table: of sandboxes, with --jobs of jobs',
  ),
};

interface ShownSandbox extends ListedSandbox {
  readonly imageName: string | undefined;
  /** Of the image's packages. */
  readonly arch: string | undefined;
  readonly usage: SandboxUsage;
  readonly endless: readonly EndlessProcess[] | undefined;
  /** The id of the detached job that runs in it, which every command takes: people see one id for both. */
  readonly job?: string | undefined;
  readonly jobName?: string | undefined;
}

const COLUMNS: Columns<ShownSandbox> = [
  ['ID', ({ id, job }) => job ?? id],
  ['STATE', ({ state }) => state],
  ['OWNER', ({ record }) => ownerText(record)],
  ['AGE', ({ record }) => age(record.created)],
  ['IMAGE', ({ imageName, record }) => imageName ?? record.image?.slice(0, 12) ?? ''],
  ['MEMORY', ({ usage }) => bytesText(usage.memoryBytes)],
  ['SIZE', ({ usage }) => bytesText(usage.sizeBytes)],
  ['DOMAIN', ({ record }) => record.domain],
  ['NAME', ({ record, jobName }) => record.name ?? jobName ?? ''],
  ['PORTS', (sandbox) => portsOf(sandbox).join(' ')],
  ['COMMAND', ({ record }) => (record.command ?? []).join(' ').slice(0, 60)],
];

export function psCommand(caller: Caller): KilnCommand {
  return new KilnCommand('ps')
    .description(
      'List sandboxes: running, kept (for `kiln shell`), expired, dead or abandoned (`kiln gc` removes them), ending (killed, but the kernel cannot end a process in it) and, with -a, parked (ready for the next command); and detached jobs, with -a those that have ended as well. SIZE is what a sandbox has written to its own file systems, which are in memory; MEMORY is all that it takes now.',
    )
    .rows(PS)
    .examples(
      'kiln ps',
      'kiln ps --format "{{.ID}} {{.Memory}} {{.Size}}"',
      'kiln ps --json | jq -r ".[].id"',
      'kiln ps --format "{{.ID}} {{.State}}"',
      'kiln ps --jobs',
    )
    .action(async (options: ValuesOf<typeof PS>) => {
      requireHost(caller.env);
      const paths = statePaths(caller.env);
      requireState(paths.root);
      const jobs = await listJobs(paths, caller.user);
      if (options.jobs === true) {
        printRows(caller.stdout, JOBS, jobs, options, jobJson);
        return;
      }
      const listed = await listSandboxes(paths, { owner: caller.user });
      const jobIn = new Map(jobs.map(({ record }) => [record.sandbox, record]));
      const sandboxes: ShownSandbox[] = [];
      for (const sandbox of listed) {
        if (options.all !== true && sandbox.state === 'parked') continue;
        const job = jobIn.get(sandbox.id);
        sandboxes.push({ ...shown(sandbox, paths), job: job?.id, jobName: job?.name });
        // There may be many, and the daemon has other callers.
        await setImmediate();
      }
      printRows(caller.stdout, COLUMNS, sandboxes, options, sandboxJson);
      for (const { id, state, record } of sandboxes) {
        if (state !== 'ending' || isJson(options)) continue;
        caller.stderr.say(`kiln: sandbox ${id} cannot end: ${whyEndless(record.init?.pid)}\n`);
      }
      const told = options.all === true ? jobs : jobs.filter(({ state }) => state !== 'ended');
      if (!isTable(options) || told.length === 0) return;
      caller.stdout.say('\n');
      printRows(caller.stdout, JOBS, told, {}, jobJson);
    });
}

export function shown(sandbox: ListedSandbox, paths: StatePaths): ShownSandbox {
  const { record } = sandbox;
  const manifest = record.image === undefined ? undefined : readManifest(paths, record.image);
  const { name: imageName, arch } = manifest ?? {};
  const endless = sandbox.state === 'ending' ? endlessProcesses(record.init?.pid) : undefined;
  return { ...sandbox, imageName, arch, endless, usage: sandboxUsage(paths, record) };
}

function bytesText(bytes: number | undefined): string {
  return bytes === undefined ? '' : sizeText(bytes);
}

/** Those of one that nobody holds lead nowhere. */
function portsOf({ state, record }: ListedSandbox): readonly string[] {
  return (state === 'running' && record.publish) || [];
}

/** Times are ISO 8601 here; `record` is the sandbox's file as it lies. */
export function sandboxJson({
  imageName,
  arch,
  usage,
  folder: directory,
  jobName,
  ...sandbox
}: ShownSandbox) {
  const { image, created, keepUntil } = sandbox.record;
  const times = { created: iso(created), keepUntil: iso(keepUntil) };
  const name = sandbox.record.name ?? jobName;
  const publish = portsOf({ ...sandbox, folder: directory });
  return { ...sandbox, name, publish, directory, image, imageName, arch, ...times, ...usage };
}

function iso(milliseconds: number | undefined): string | undefined {
  return milliseconds === undefined ? undefined : new Date(milliseconds).toISOString();
}

const JOBS: Columns<ListedJob> = [
  ['JOB', ({ record }) => record.id],
  ['NAME', ({ record }) => record.name ?? ''],
  [
    'STATE',
    ({ state, record: { ended } }) => (ended === undefined ? state : `ended ${ended.status}`),
  ],
  ['OWNER', ({ record }) => ownerText(record)],
  ['AGE', ({ record }) => age(record.created)],
  ['COMMAND', ({ record }) => record.command.join(' ').slice(0, 60)],
];

export function jobJson({ state, record }: ListedJob) {
  const { id, name, owner, command, created, resultDirectory, ended } = record;
  return {
    ...{ id, name, state, owner, command, created: iso(created), resultDirectory },
    ...{ endedAt: iso(ended?.at), exitStatus: ended?.status },
  };
}

/** As `kiln image ls` has it. */
export function ownerText({ owner }: { readonly owner?: number | undefined }): string {
  return owner === undefined ? 'root' : `user ${owner}`;
}

export function age(since: number): string {
  const seconds = Math.max(0, Math.round((Date.now() - since) / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)}m`;
  return `${Math.round(seconds / 3600)}h`;
}

const KILL = {
  all: row(flag, 'open', {
    help: 'destroy all sandboxes, including parked ones, and end all jobs',
    short: 'a',
  }),
};

export function killCommand(caller: Caller): KilnCommand {
  return new KilnCommand('kill')
    .description(
      'Destroy sandboxes with all that runs in them; `kiln run` then exits with status 125. End detached jobs.',
    )
    .argument('[id...]', 'ids or names, as `kiln ps` shows them; the first digits are enough')
    .rows(KILL)
    .examples('kiln kill 3fa9', 'kiln kill --all')
    .action(async (ids: string[], { all = false }: ValuesOf<typeof KILL>) => {
      if (ids.length === 0 && !all) {
        throw new KilnError('E_ARGUMENT', 'say which sandbox: an id, or --all', {
          hint: '`kiln ps` lists them',
        });
      }
      if (ids.length > 0 && all) {
        throw new KilnError('E_ARGUMENT', `--all takes no ids, such as ${ids[0]}`, {
          hint: 'leave out --all, or the ids',
        });
      }
      await using engine = caller.openEngine();
      const { paths, connect } = engine;
      const known = await listJobs(paths, caller.user);
      const running = known.filter(({ state }) => state === 'running');
      const isJob = (word: string) => running.some((job) => isMeant(job, word, caller.user));
      const named = ids.filter(isJob).map((word) => jobCalled(running, word, caller.user));
      const jobs = all ? running : [...new Set(named)];
      const endOne = async ({ record: { id } }: ListedJob) => {
        await endJob(paths, id);
        caller.stdout.say(`${id}\n`);
      };
      await allEnds(jobs.map(endOne));
      const others = ids.filter((word) => !isJob(word));
      const listed = await listSandboxes(paths, engine);
      const chosen = all
        ? listed
        : others.map((word) => sandboxMeant(known, word, caller.user, listed));
      const destroy = async ({ id, folder, record }: ListedSandbox) => {
        await destroySandbox(paths, folder, record, connect);
        caller.stdout.say(`${id}\n`);
      };
      // A sandbox may have been named twice.
      await allEnds([...new Set(chosen)].map(destroy));
    });
}

async function endJob(paths: StatePaths, id: string): Promise<void> {
  using follower = await Follower.open(paths, id);
  follower?.control({ do: 'end' });
  await follower?.over;
}

const PARK = {
  number: row(count, ROOTS, {
    help: 'keep this many sandboxes parked; without -n, as many as before',
    short: 'n',
    term: 'count',
  }),
  isolation: row(SANDBOX.isolation.kind, ROOTS, {
    help: 'park machines: vm; without it, containers',
  }),
  memory: row(SANDBOX.memory.kind, ROOTS, {
    help: 'give the sandbox in each machine this much memory; a run that asks for more boots its own',
  }),
  none: row(flag, ROOTS, {
    help: 'destroy the parked sandboxes and start no more; of both kinds, without --isolation',
  }),
  quiet,
};

export function parkCommand(caller: Caller): KilnCommand {
  return new KilnCommand('park')
    .description(
      'Park sandboxes: start them before there are commands, which then need not wait for libvirt. A parked container fits every image, bind and limit; a machine has its memory and processors already, and no network. It is used once and then replaced in the background. Parked sandboxes end after 30 minutes without use, and with the daemon.',
    )
    .rows(PARK)
    .examples(
      'kiln park -n 4',
      'kiln park --isolation vm -n 2 --memory 1G',
      'kiln ps -a',
      'kiln park --none\n\nA container is reckoned at 32 MB, a machine at 256 MB, and 512 MB must stay free: kiln refuses more. KILN_PARKED and KILN_PARKED_VMS, or defaults.parked and defaults.parked-vms of /etc/kiln/kiln.yaml, set how many the daemon parks by itself.',
    )
    .action(async (options: ValuesOf<typeof PARK>) => {
      // Fails here for callers who cannot have sandboxes at all.
      await using _engine = caller.openEngine();
      const parking = requireParking(caller);
      const { isolation, memory } = options;
      if (options.none === true) {
        const lots = isolation === undefined ? Object.values(parking) : [parking[isolation]];
        const count = () => lots.reduce((sum, lot) => sum + lot.count, 0);
        const before = count();
        const text = () => `${before - count()} of ${before} destroyed`;
        using _ = watchProgress(caller, text);
        await Promise.all(lots.map((lot) => lot.none()));
        return;
      }
      const lot = parking[isolation ?? 'container'];
      const wanted = options.number;
      if (memory !== undefined) requireMachines(isolation, wanted);
      if (wanted !== undefined) requireRoom(lot, wanted);
      {
        using _ = watchProgress(caller, () => parked(lot));
        await (wanted === undefined ? lot.fill() : lot.keep(wanted, memory));
      }
      caller.stdout.say(`${parked(lot)}\n`);
    });
}

/** A container has its memory only when it is claimed. */
function requireMachines(isolation: string | undefined, wanted: number | undefined): void {
  if (isolation === 'vm' && wanted !== undefined) return;
  throw new KilnError('E_ARGUMENT', '--memory of kiln park is for machines, with their number', {
    hint: 'kiln park --isolation vm -n 2 --memory 1G',
  });
}

function requireParking({ parking }: Caller): Parking {
  if (parking !== undefined) return parking;
  const what = 'only the daemon can park sandboxes, and none serves this call';
  throw new KilnError('E_NO_DAEMON', what, {
    hint: 'call kiln as root, without KILN_URI and KILN_FROM_SOURCE, where the daemon runs',
  });
}

function parked({ count, target, emulated }: ParkedSandboxes): string {
  const note = emulated === 0 ? '' : `, emulated: runs with --allow-missing kvm take them`;
  return `${count} of ${target} parked${note}`;
}

function requireRoom({ count, room, memory }: ParkedSandboxes, wanted: number): void {
  const most = count + room;
  if (wanted <= most) return;
  throw new KilnError('E_PARK_ROOM', `there is no memory for ${wanted} parked sandboxes`, {
    hint:
      most === 0
        ? `free some: each is reckoned at ${sizeText(memory)}, and 512 MB are to stay free`
        : `at most ${most} fit: kiln park -n ${most}`,
    details: { most },
  });
}
