/**
 * A worker of kilnd's, which starts it and hands it jobs: a program by itself, since it loads half as much. Long,
 * because its whole life is here.
 */
import { writeSync } from 'node:fs';
import { join } from 'node:path';
import type { Warning } from '../artifacts/warning.ts';
import type { Caller } from '../cli/caller/caller.ts';
import { loadCommands, runCommandLine } from '../cli/commands.ts';
import { describeError, KILN_FAILED, printError, printWarning } from '../cli/output/errors.ts';
import type { CommandLine } from '../daemon/command-line.ts';
import { idsOf, type PeerIdentity } from '../daemon/peer.ts';
import { ResultsServer } from '../daemon/results.ts';
import { type AdoptedCall, Daemon } from '../daemon/worker.ts';
import { DetachedJob } from '../detached/job.ts';
import type { Engine } from '../engine.ts';
import { type EngineOptions, type OwnEngine, openEngine } from '../engine.ts';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { workingDirectoryError } from '../host/calls/system-error.ts';
import { enterWorkGroup, workGroup } from '../host/cgroup/work-group.ts';
import { heldLock } from '../host/files/flock.ts';
import { type Opener, ownOpener } from '../host/files/opener.ts';
import type { Turn, WantedTurn } from '../host/libvirt/sandbox-host.ts';
import { takeCallersUmask } from '../host/process/own-umask.ts';
import { actingAs } from '../host/process/user-namespace.ts';
import { hasEndedWaits, withWaits } from '../host/process/wait-for.ts';
import { type StatePaths, statePaths } from '../host/state/paths.ts';
import { endTrace } from '../host/trace/trace.ts';
import { syncStore } from '../image/store/durability.ts';
import { callerIds, type RunRequest } from '../jobs/run/request.ts';
import { setDownloadWays } from '../packages/repository/transport/reach.ts';
import { awaitedLater } from '../promise.ts';
import { type AnsweringProcess, answerAlone } from '../serve/calls/answer.ts';
import { answerClient, isClientOfCalls } from '../serve/calls/client.ts';
import { ClientCaller, type ServingProcess } from '../serve/client-caller.ts';
import { ownerOf, userOf, workLimits } from '../serve/users.ts';
import { CallerFiles } from '../users/caller-files.ts';
import type { CallerPaths } from '../users/caller-paths.ts';
import { type CallerUser, currentConfiguration, forbidden } from '../users/configuration.ts';
import { configurationFile } from '../users/configuration-file.ts';
import { HeldPaths } from '../users/held-paths.ts';
import { JobFolder } from '../users/job-folder.ts';

/** What a job has of who asked for it. */
interface JobPlace {
  readonly opener: Opener;
  readonly cwd: string;
  /** Whose the folders are that are made. */
  readonly ids: RunRequest['caller'];
  readonly say: (warning: Warning) => void;
  /** A descriptor of the process that called; the API's callers have none. */
  readonly client?: number | undefined;
}

/** A larger worker serves nobody else, bytes: it gives its memory back by ending. */
const MEMORY_MAX = 256 << 20;

/** After this time, milliseconds, a spare worker loads all code. Where jobs come fast, each loads what it needs. */
const LOADING = 2000;

/** Of calls on the socket: they bring no files, and kilnd opens none by a path of a user's. */
const NO_OPENER: Opener = {
  open: async (_, path) => {
    throw forbidden(`the path ${path} in a call on the socket`, 'kilnd opens no files for them', {
      hint: 'make the call through `kiln varlink`, which opens files with your rights, as the library does: docs/api.md',
    });
  },
};

/** How long a worker's job may take to end once its daemon is gone, milliseconds. */
const LAST_MOMENTS = 20_000;

function runWorker(): void {
  const { root } = statePaths(process.env);
  let abort: (() => void) | undefined;
  let current: CommandLine | undefined;
  const results = new ResultsServer();
  let putting = Promise.resolve();
  let syncing = Promise.resolve();
  let changed = false;
  let paths: CallerPaths | undefined;
  let client: number | undefined;
  /** The user that this process has worked for: it works for nobody else. */
  let served: string | undefined;
  const left: OwnEngine[] = [];
  // Not at once: whoever waits for a worker to start needs the code of one command.
  const loading = setTimeout(() => {
    loadCommands().catch(fail);
  }, LOADING);
  const daemon = new Daemon({
    job: (line) => {
      clearTimeout(loading);
      current = line;
      abort = () => line.abort();
      serve(line).catch(fail);
    },
    call: (adopted) => {
      clearTimeout(loading);
      abort = () => adopted.call.gone();
      answer(adopted).catch(fail);
    },
    results: (payload, fds) => {
      clearTimeout(loading);
      putting = awaitedLater(put(payload, fds).catch(fail));
    },
    stop: () => results.stop(),
    over: () => {
      results.forget();
      daemon.done(isSmall());
    },
    gone: () => {
      results.stop();
      if (abort === undefined) {
        Promise.all([putting, syncing])
          .finally(() => process.exit())
          .catch(fail);
        return;
      }
      abort();
      setTimeout(() => process.exit(KILN_FAILED), LAST_MOMENTS).unref();
    },
  });

  async function put(payload: Buffer, fds: readonly number[]): Promise<void> {
    try {
      daemon.answer(await results.answer(payload, fds));
    } finally {
      for (const fd of fds) closeDescriptor(fd);
    }
  }

  async function serve(line: CommandLine): Promise<void> {
    const { cwd } = line.descriptors;
    const say = (warning: Warning) => printWarning(warning, caller.stderr);
    client = line.identity.uid === 0 ? undefined : line.openProcess();
    const { cwd: name, env } = line.start;
    const ids = callerIds(env, line.identity);
    const opened = { opener: line, cwd: name, ids, say, client };
    const own = await placeOfJob(line.identity, opened);
    const { user } = own;
    // By descriptor, so that a directory that was renamed, or that this process could not find, works.
    const place = cwd === undefined ? '/' : `/proc/self/fd/${cwd}`;
    process.chdir(user?.files?.folder ?? place);
    changed = false;
    const serving: ServingProcess = {
      state: root,
      configuration: configurationFile(process.env),
      isOnly: true,
      parking: undefined,
      openEngine: (caller, options) => openWithoutWait(caller.env, caller, options),
      storeChanged: () => {
        changed = true;
      },
      detach: async (options, { windowSize }) => {
        const own = { ...windowSize, owner: user?.uid, command: line.words };
        const job = await DetachedJob.make(statePaths(process.env), { ...options, ...own });
        // Before the client is told, and ends.
        job.once('begun', () => daemon.detached());
        return job;
      },
      takeRoom: () => daemon.takeRoom(),
      interrupted: () => leave(line, 0),
    };
    const caller = new ClientCaller(line, serving, own);
    abort = () => caller.abort();
    if (isClientOfCalls(line)) {
      const placeOfCall = async () => {
        await paths?.[Symbol.asyncDispose]();
        const next = await placeOfJob(line.identity, opened);
        process.chdir(next.user?.files?.folder ?? '/');
        return next;
      };
      await answerClient(line, caller, answering(caller.env), placeOfCall).catch((error) => {
        printError(error, caller.stderr);
        caller.exitStatus = KILN_FAILED;
      });
      await caller.finish();
    } else await serveAlone(line, caller);
    await line.sent();
    await done();
  }

  async function answer({ call, close }: AdoptedCall): Promise<void> {
    changed = false;
    const say = ({ message }: Warning) => call.reply({ warning: message });
    const { identity } = call.head;
    const opener = identity.uid === 0 ? ownOpener(identity) : NO_OPENER;
    const own = await placeOfJob(identity, { opener, cwd: '/', ids: identity, say });
    process.chdir(own.user?.files?.folder ?? '/');
    await answerAlone(call, answering(process.env), own);
    await close();
    await done();
  }

  function answering(env: Caller['env']): AnsweringProcess {
    return {
      env,
      openEngine: (caller, options) => openWithoutWait(env, caller, options),
      storeChanged: () => {
        changed = true;
      },
      tell: (error) => writeSync(2, describeError(error)),
    };
  }

  async function done(): Promise<void> {
    // Disks may take seconds: the next client does not wait for that.
    if (changed) syncing = awaitedLater(syncing.then(sync, sync));
    process.chdir('/');
    await paths?.[Symbol.asyncDispose]();
    paths = undefined;
    if (client !== undefined) closeDescriptor(client);
    client = undefined;
    current = undefined;
    abort = undefined;
    const again = !hasEndedWaits() && isSmall();
    daemon.done(again);
    closeLeft().catch((error) => writeSync(2, describeError(error)));
  }

  async function sync(): Promise<void> {
    // What is not synced is made anew after a crash of the machine.
    await syncStore(statePaths(process.env)).catch((error) => writeSync(2, describeError(error)));
  }

  /** Opens an engine whose connection is closed only after the client was told the outcome. */
  function openWithoutWait(
    env: Caller['env'],
    caller: Pick<Caller, 'user' | 'paths'>,
    options: EngineOptions = {},
  ): OwnEngine {
    const owner = caller.user && ownerOf(caller.user);
    const renamed: Engine['renamed'] = (value) => caller.paths.renamed(value);
    // Where root's own files are is the daemon's to say, never a caller's.
    const { KILN_CONFIG } = process.env;
    const own = openEngine({ ...env, KILN_CONFIG }, { ...options, owner, renamed });
    // Parked sandboxes are domains of the daemon's own libvirt.
    const engine = env.KILN_URI
      ? own
      : { ...own, takeTurn: (wanted: WantedTurn) => takeTurn(own.paths, wanted) };
    return { ...engine, [Symbol.asyncDispose]: async () => void left.push(engine) };
  }

  /** A user's files come only from the user's own client, to a folder of this job. Root's are used as they are. */
  async function placeOfJob(
    identity: PeerIdentity,
    { client, say, ...place }: JobPlace,
  ): Promise<{ readonly user: CallerUser | undefined; readonly paths: CallerPaths }> {
    const configuration = configurationFile(process.env);
    // A command line has its caller's own besides: see runCommandLine().
    setDownloadWays(async () => currentConfiguration(configuration).repositories);
    const ids = identity.uid === 0 ? undefined : idsOf(identity);
    if (served !== undefined && ids !== served) throw new Error('a worker of another user’s');
    served = ids;
    if (ids === undefined) {
      const cwd = () => {
        if (place.cwd === '') throw workingDirectoryError();
        return place.cwd;
      };
      const makeFolder = () => JobFolder.make(statePaths(process.env));
      paths = new HeldPaths({ ...place, cwd, owner: place.ids, makeFolder, warn: say });
      return { user: undefined, paths };
    }
    const user = userOf(identity, configuration);
    const state = statePaths(process.env);
    enterWorkGroup(workGroup(state, user.uid), workLimits(user.policy));
    const files = await CallerFiles.make(state, {
      ...{ ...place, owner: user, bytes: user.policy.limits.disk },
      withRights: (act) => actingAs(user, act),
      warn: say,
    });
    paths = files;
    return { user: { ...user, files, process: client }, paths };
  }

  async function closeLeft(): Promise<void> {
    for (const engine of left.splice(0)) await engine.close();
  }

  async function takeTurn(paths: StatePaths, { isParkable, signal }: WantedTurn): Promise<Turn> {
    const { parked, ...turn } = await daemon.takeTurn(isParkable, signal);
    if (parked === undefined) return turn;
    const directory = join(paths.sandboxes, parked.id);
    return { ...turn, parked: { directory, lock: heldLock(parked.lock) } };
  }

  function isSmall(): boolean {
    return process.memoryUsage.rss() < MEMORY_MAX;
  }

  function fail(error: unknown): void {
    const text = describeError(error);
    writeSync(2, text);
    const line = current;
    if (line === undefined) process.exit(KILN_FAILED);
    line.write(2, text);
    line.exit({ status: KILN_FAILED });
    leave(line, KILN_FAILED);
  }

  function leave(line: CommandLine, status: number): void {
    const end = () => {
      daemon.done(false);
      process.exit(status);
    };
    const finish = () => (paths?.[Symbol.asyncDispose]() ?? Promise.resolve()).then(end, end);
    line.sent().then(finish, finish);
  }

  process.on('uncaughtException', fail);
}

async function serveAlone(line: CommandLine, caller: ClientCaller): Promise<void> {
  const say = (text: string) => caller.stderr.say(text);
  takeCallersUmask(line.start.umask);
  await withWaits({ say }, () => runCommandLine(line.words, caller));
  endTrace(say);
  await caller.finish();
}

runWorker();
