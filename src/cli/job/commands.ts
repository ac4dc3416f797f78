import { existsSync, lstatSync } from 'node:fs';
import { join } from 'node:path';
import { counted } from '../../counted.ts';
import { endOf, Follower } from '../../detached/follow.ts';
import { readJobLog } from '../../detached/log.ts';
import {
  findJob,
  jobCalled,
  jobFiles,
  type ListedJob,
  listJobs,
  titleOf,
} from '../../detached/record.ts';
import { KilnError } from '../../errors.ts';
import { attempt } from '../../host/calls/libc.ts';
import { type HeldPath, ownPath } from '../../host/files/held.ts';
import { roomIn } from '../../host/sockets/back-pressure.ts';
import { type StatePaths, statePaths } from '../../host/state/paths.ts';
import { flag } from '../../options/kind.ts';
import { LEAVE_KEYS, LeaveKeys, shownKeys } from '../../options/leave-keys.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { detachKeys } from '../../options/sandbox.ts';
import { deferred } from '../../promise.ts';
import { noResultError, renewReport, resultIn } from '../../report/write.ts';
import { type Caller, listenForInterruption } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import type { TextOutput } from '../output/print.ts';
import { LogView } from '../output/print.ts';

const JOB = 'an id or name, as `kiln ps` shows it; the first digits are enough';

const LOGS = {
  follow: row(flag, 'open', { help: 'go on until the job has ended', short: 'f' }),
};

export function logsCommand(caller: Caller): KilnCommand {
  return new KilnCommand('logs')
    .description('Print what a detached job has written, the last 8 MiB of it at least.')
    .argument('<id>', JOB)
    .rows(LOGS)
    .examples('kiln logs 3fa9', 'kiln logs -f nightly')
    .action(async (id: string, options: ValuesOf<typeof LOGS>) => {
      const paths = statePaths(caller.env);
      const job = await findJob(paths, caller.user, id);
      using output = new JobOutput(caller);
      if (options.follow !== true || job.state !== 'running') {
        for (const { output: fd, bytes } of readJobLog(job.folder)) await output.write(fd, bytes);
        return;
      }
      const logged = deferred<number>();
      // What comes from now on waits behind what is in the log.
      output.hold();
      using follower = await Follower.open(paths, job.record.id, {
        follows: logged.resolve,
        output: (fd, bytes) => output.pass(fd, bytes, follower),
        omitted: (bytes) =>
          caller.stderr.say(`kiln: ${counted(bytes, 'byte is', 'bytes are')} left out here\n`),
      });
      const until =
        follower && (await Promise.race([logged.promise, follower.over.then(() => undefined)]));
      if (follower !== undefined) follower.paused = true;
      for (const { output: fd, bytes } of readJobLog(job.folder, until))
        await output.write(fd, bytes);
      output.release();
      if (follower === undefined) return;
      follower.paused = false;
      if ((await follower.over) === undefined) await endOf(paths, job);
    });
}

/** Where a job's output goes: as it is, but on a terminal without what a terminal acts on. */
class JobOutput implements Disposable {
  readonly #to: { readonly 1: TextOutput; readonly 2: TextOutput };
  readonly #views: { readonly 1: LogView; readonly 2: LogView };
  #held: (readonly [1 | 2, Buffer])[] | undefined;

  constructor({ stdout, stderr }: Caller) {
    const view = new LogView(() => stdout);
    // GitHub's runner reads two pipes: what resumes its commands could come before the end of the other one's text.
    const isOne = stdout.service === 'github';
    this.#to = { 1: stdout, 2: isOne ? stdout : stderr };
    this.#views = { 1: view, 2: isOne ? view : new LogView(() => stderr) };
  }

  async write(output: 1 | 2, bytes: Buffer): Promise<void> {
    this.#views[output].write(bytes);
    const { stream } = this.#to[output];
    if (stream.writableNeedDrain) await roomIn(stream);
  }

  pass(output: 1 | 2, bytes: Buffer, follower: Follower | undefined): void {
    if (this.#held !== undefined) {
      this.#held.push([output, bytes]);
      return;
    }
    const { stream } = this.#to[output];
    this.#views[output].write(bytes);
    if (!stream.writableNeedDrain || follower === undefined) return;
    follower.paused = true;
    stream.once('drain', () => {
      follower.paused = false;
    });
  }

  hold(): void {
    this.#held = [];
  }

  release(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const [output, bytes] of held) this.pass(output, bytes, undefined);
  }

  [Symbol.dispose](): void {
    this.#views[1][Symbol.dispose]();
    this.#views[2][Symbol.dispose]();
  }
}

const ATTACH = { detachKeys: detachKeys('the terminal of a job') };

export function attachCommand(caller: Caller): KilnCommand {
  return new KilnCommand('attach')
    .description(
      'Show what a detached job writes from now on, and exit with its status when it ends.',
    )
    .argument('<id>', JOB)
    .rows(ATTACH)
    .addHelpText(
      'after',
      `
A job that was started with --tty takes what is typed; ^P^Q leaves it. Of others ^C leaves: the job goes on,
\`kiln kill\` ends it.

Examples:
  kiln attach 3fa9
  kiln attach nightly`,
    )
    .action(async (id: string, options: ValuesOf<typeof ATTACH>) => {
      const paths = statePaths(caller.env);
      const job = await findJob(paths, caller.user, id);
      caller.exitStatus = await attachTo(job, options, caller);
    });
}

async function attachTo(
  job: ListedJob,
  { detachKeys: keys = LEAVE_KEYS }: ValuesOf<typeof ATTACH>,
  caller: Caller,
): Promise<number> {
  const paths = statePaths(caller.env);
  const { tty, id } = job.record;
  using output = new JobOutput(caller);
  using follower =
    job.state === 'running'
      ? await Follower.open(paths, id, {
          follows: () => undefined,
          // The caller asked for the command's terminal: its output is passed unfiltered.
          output: (fd, bytes) => {
            if (tty) caller.stdout.write(bytes);
            else output.pass(fd, bytes, follower);
          },
          omitted: (bytes) =>
            caller.stderr.say(`kiln: ${counted(bytes, 'byte is', 'bytes are')} left out here\n`),
        })
      : undefined;
  if (follower === undefined) return await endOf(paths, job);
  const left = deferred<'left'>();
  const leave = () => left.resolve('left');
  using _leaving = caller.onSignal(['SIGINT', 'SIGTERM', 'SIGHUP'], leave);
  using _typing = tty ? typeTo(follower, keys, leave, caller) : undefined;
  const end = await Promise.race([follower.over, left.promise]);
  if (end !== 'left') return end ?? (await endOf(paths, job));
  caller.stderr.say(
    `kiln: the job ${titleOf(job.record)} goes on: \`kiln attach ${id}\` comes back, \`kiln kill ${id}\` ends it\n`,
  );
  return 0;
}

function typeTo(follower: Follower, keys: string, leave: () => void, caller: Caller): Disposable {
  const typing = new DisposableStack();
  if (caller.inputIsTTY && keys !== '') caller.stderr.say(`kiln: ${shownKeys(keys)} leaves\n`);
  const { stream } = typing.use(caller.readInput({ raw: caller.inputIsTTY }));
  const leaving = new LeaveKeys(caller.inputIsTTY ? keys : '');
  stream.on('data', (bytes: Buffer) => {
    const { typed, hasLeft } = leaving.take(bytes);
    if (typed.length > 0) follower.type(typed);
    if (hasLeft) leave();
  });
  const resize = () => follower.control({ do: 'resize', ...caller.windowSize });
  typing.use(caller.onSignal(['SIGWINCH'], resize));
  if (caller.stdout.isTTY) resize();
  return typing;
}

/** Jobs that one call waits for: each has a connection. */
const MOST = 64;

export function waitCommand(caller: Caller): KilnCommand {
  return new KilnCommand('wait')
    .description(
      'Wait until detached jobs have ended; exit with the status of the job, of several with the first that is not 0.',
    )
    .argument('<id...>', 'ids or names, as `kiln ps` shows them; the first digits are enough')
    .examples('id=$(kiln run -r debian-build --detach -- make) && kiln wait $id')
    .action(async (ids: string[]) => {
      const paths = statePaths(caller.env);
      if (ids.length > MOST) {
        throw new KilnError('E_ARGUMENT', `wait: ${ids.length} jobs are more than ${MOST}`, {
          hint: 'wait for some of them first',
        });
      }
      const listed = await listJobs(paths, caller.user);
      const jobs = [...new Set(ids.map((id) => jobCalled(listed, id, caller.user)))];
      using interruption = listenForInterruption(caller);
      const statuses = await Promise.all(
        jobs.map(async (job) => {
          const status = await endOfJob(job, paths, interruption.signal);
          if (jobs.length > 1) caller.stdout.say(`${titleOf(job.record)} ${status}\n`);
          return status;
        }),
      );
      caller.exitStatus = statuses.find((status) => status !== 0) ?? 0;
    });
}

async function endOfJob(job: ListedJob, paths: StatePaths, signal: AbortSignal): Promise<number> {
  if (job.record.ended !== undefined) return job.record.ended.status;
  using follower = await Follower.open(paths, job.record.id);
  const given = deferred<never>();
  signal.addEventListener('abort', () => given.reject(signal.reason));
  const over = follower && (await Promise.race([follower.over, given.promise]));
  return over ?? (await endOf(paths, job));
}

/** Of a job, and of a chain. */
const LAST_FILES = ['result.json', 'chain.json'];

export function resultsCommand(caller: Caller): KilnCommand {
  return new KilnCommand('results')
    .description('Copy the results of a detached job that has ended.')
    .argument('<id>', JOB)
    .argument('[dir]', 'the folder to write them to', 'result')
    .examples('kiln wait nightly; kiln results nightly out')
    .action(async (id: string, directory: string) => {
      const { record, folder, state } = await findJob(statePaths(caller.env), caller.user, id);
      const title = titleOf(record);
      const noResults = (what: string, hint: string) =>
        new KilnError('E_NO_RESULTS', what, { hint });
      if (record.resultDirectory !== undefined) {
        const hint = `its --resultdir has them: ${record.resultDirectory}`;
        throw noResults(`the results of ${title} are not kept here`, hint);
      }
      if (state === 'running') {
        const hint = `\`kiln wait ${record.id}\` waits for it`;
        throw noResults(`the job ${title} has not ended`, hint);
      }
      const from = jobFiles.results(folder);
      if (!existsSync(from)) {
        const hint = `\`kiln logs ${record.id}\` may say why`;
        throw noResults(`the job ${title} left no results`, hint);
      }
      await caller.paths.give(from, directory);
      caller.stdout.say(`${directory}\n`);
      // What describes the others is written last.
      const isWhole = LAST_FILES.some((name) => existsSync(join(from, name)));
      const lost = lostFile(ownPath(from));
      if (state !== 'lost' && isWhole && lost === undefined) return;
      const what = lost === undefined ? '' : `: ${lost} is not what the job left`;
      throw new KilnError('E_JOB_LOST', `the results of ${title} are not whole${what}`, {
        hint: `${directory} has what there was when they were lost; \`kiln logs ${record.id}\` may say why`,
      });
    });
}

/** The first file that result.json names and that is gone or has another size: a power cut leaves such. */
function lostFile(from: HeldPath): string | undefined {
  const result = resultIn(from);
  const build = result?.build;
  const packages = [...(build?.packages ?? []), build?.sourcePackage ?? []].flat();
  const files = [
    ...packages.map(({ file, size }) => ({ path: file, size, type: 'file', pathBytes: undefined })),
    ...(result?.artifacts ?? []),
  ];
  return files.find(({ path, pathBytes, size, type }) => {
    const name = pathBytes === undefined ? Buffer.from(path) : Buffer.from(pathBytes, 'base64');
    const stats = attempt(() => lstatSync(Buffer.concat([Buffer.from(`${from}/`), name])));
    return stats === undefined || (type === 'file' && stats.size !== size);
  })?.path;
}

const REPORT_EXAMPLES = `
Jobs with a --resultdir write the report themselves. It is one file and needs no network: open it in a browser.

Examples:
  kiln report result   make result/report.html of what lies there
  kiln report chain    the same of a chain's chain.json
  xdg-open result/report.html`;

export function reportCommand(caller: Caller): KilnCommand {
  return new KilnCommand('report')
    .description('Write report.html again from what a job or a chain left in its result folder.')
    .argument('<folder>', 'the result folder of a job or a chain')
    .addHelpText('after', REPORT_EXAMPLES)
    .action(async (directory: string) => {
      const folder = await caller.paths.existing(directory);
      if (folder === undefined) throw noResultError(directory);
      const path = await renewReport(folder, caller.ids);
      caller.stdout.write(`${path}\n`);
      caller.exitStatus = 0;
    });
}
