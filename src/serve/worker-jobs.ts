/** The jobs of a worker: clients and calls that kilnd hands it, one at a time. */
import type { Warning } from '../artifacts/warning.ts';
import type { Caller } from '../cli/caller/caller.ts';
import { runCommandLine } from '../cli/commands.ts';
import { describeError, KILN_FAILED, printError, printWarning } from '../cli/output/errors.ts';
import type { CommandLine } from '../daemon/command-line.ts';
import type { AdoptedCall, DaemonConnection } from '../daemon/daemon-connection.ts';
import { DetachedJob } from '../detached/job.ts';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { type Opener, ownOpener } from '../host/files/opener.ts';
import { takeCallersUmask } from '../host/process/own-umask.ts';
import { hasEndedWaits, withWaits } from '../host/process/wait-for.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { endTrace } from '../host/trace/trace.ts';
import { syncStore } from '../image/store/durability.ts';
import { callerIds } from '../jobs/run/request.ts';
import { awaitedLater } from '../promise.ts';
import { forbiddenError } from '../users/configuration.ts';
import { type AnsweringProcess, answerAlone } from './calls/answer.ts';
import { answerClient, isClientOfCalls } from './calls/client.ts';
import { ClientCaller, type ServingProcess } from './client-caller.ts';
import type { JobPlaces } from './job-places.ts';
import type { WorkerEngines } from './worker-engines.ts';

/** Of calls on the socket: they bring no files, and kilnd opens none by a path of a user's. */
const NO_OPENER: Opener = {
  open: async (_, path) => {
    throw forbiddenError(
      `the path ${path} in a call on the socket`,
      'kilnd opens no files for them',
      {
        hint: 'make the call through `kiln varlink`, which opens files with your rights, as the library does: docs/api.md',
      },
    );
  },
};

export interface WorkerParts {
  readonly daemon: DaemonConnection;
  readonly engines: WorkerEngines;
  readonly places: JobPlaces;
  readonly state: StatePaths;
  /** The path of root's kiln.yaml. */
  readonly configuration: string;
  /** Of this process, for calls, which have none of their own. */
  readonly env: Caller['env'];
  /** Makes a folder this process's own. */
  readonly enter: (folder: string) => void;
  /** Whether this process may have another job, by its size. */
  readonly isSmall: () => boolean;
  readonly tell: (error: unknown) => void;
  readonly exit: (status: number) => never;
}

export class WorkerJobs {
  readonly #parts: WorkerParts;
  #line: CommandLine | undefined;
  /** A descriptor of the process that called. */
  #client: number | undefined;
  #abort: (() => void) | undefined;
  #hasChanged = false;
  /** Resolves when what the jobs have stored is on the disk. */
  synced: Promise<void> = Promise.resolve();

  constructor(parts: WorkerParts) {
    this.#parts = parts;
  }

  get isBusy(): boolean {
    return this.#abort !== undefined;
  }

  abort(): void {
    this.#abort?.();
  }

  line(line: CommandLine): void {
    this.#line = line;
    this.#abort = () => line.abort();
    this.#serve(line).catch((error) => this.fail(error));
  }

  call(adopted: AdoptedCall): void {
    this.#abort = () => adopted.call.gone();
    this.#answer(adopted).catch((error) => this.fail(error));
  }

  async #serve(line: CommandLine): Promise<void> {
    const { daemon, engines, places, state, configuration, enter } = this.#parts;
    const { identity, start, descriptors } = line;
    this.#client = identity.uid === 0 ? undefined : line.openProcess();
    const opened = {
      ...{ opener: line, cwd: start.cwd, ids: callerIds(start.env, identity) },
      ...{ client: this.#client, say: (warning: Warning) => printWarning(warning, caller.stderr) },
    };
    const own = await places.take(identity, opened);
    const { user } = own;
    // By descriptor, so that a directory that was renamed, or that this process could not find, works.
    const place = descriptors.cwd === undefined ? '/' : `/proc/self/fd/${descriptors.cwd}`;
    enter(user?.files?.folder ?? place);
    const serving: ServingProcess = {
      ...{ state: state.root, configuration, isOnly: true, parking: undefined },
      openEngine: (caller, options) => engines.open(caller.env, caller, options),
      storeChanged: () => this.#storeChanged(),
      detach: async (options, { windowSize }) => {
        const about = { ...windowSize, owner: user?.uid, command: line.words };
        const job = await DetachedJob.make(state, { ...options, ...about });
        // Before the client is told, and ends.
        job.once('begun', () => daemon.detached());
        return job;
      },
      takeRoom: () => daemon.takeRoom(),
      interrupted: () => this.#leave(line, 0),
    };
    const caller = new ClientCaller(line, serving, own);
    this.#abort = () => caller.abort();
    if (isClientOfCalls(line)) {
      const placeOfCall = async () => {
        await places.leave();
        const next = await places.take(identity, opened);
        enter(next.user?.files?.folder ?? '/');
        return next;
      };
      await answerClient(line, caller, this.#answering(caller.env), placeOfCall).catch((error) => {
        printError(error, caller.stderr);
        caller.exitStatus = KILN_FAILED;
      });
      await caller.finish();
    } else await serveAlone(line, caller);
    await line.sent();
    await this.#done();
  }

  async #answer({ call, close }: AdoptedCall): Promise<void> {
    const { places, env, enter } = this.#parts;
    const say = ({ message }: Warning) => call.reply({ warning: message });
    const { identity } = call.head;
    const opener = identity.uid === 0 ? ownOpener(identity) : NO_OPENER;
    const own = await places.take(identity, { opener, cwd: '/', ids: identity, say });
    enter(own.user?.files?.folder ?? '/');
    await answerAlone(call, this.#answering(env), own);
    await close();
    await this.#done();
  }

  #answering(env: Caller['env']): AnsweringProcess {
    const { engines, tell } = this.#parts;
    return {
      env,
      openEngine: (caller, options) => engines.open(env, caller, options),
      storeChanged: () => this.#storeChanged(),
      tell,
    };
  }

  #storeChanged(): void {
    this.#hasChanged = true;
  }

  async #done(): Promise<void> {
    const { daemon, engines, places, state, enter, isSmall, tell } = this.#parts;
    if (this.#hasChanged) {
      // Disks may take seconds: the next client does not wait for that. What is not synced is made anew after a crash
      // of the machine.
      const sync = () => syncStore(state).catch(tell);
      this.synced = awaitedLater(this.synced.then(sync));
    }
    this.#hasChanged = false;
    enter('/');
    await places.leave();
    if (this.#client !== undefined) closeDescriptor(this.#client);
    this.#client = undefined;
    this.#line = undefined;
    this.#abort = undefined;
    daemon.done(!hasEndedWaits() && isSmall());
    engines.closeLeft().catch(tell);
  }

  /** What nobody expected ends the worker: its client is told. */
  fail(error: unknown): void {
    const { tell, exit } = this.#parts;
    tell(error);
    const line = this.#line;
    if (line === undefined) {
      exit(KILN_FAILED);
      return;
    }
    line.write(2, describeError(error));
    line.exit({ status: KILN_FAILED });
    this.#leave(line, KILN_FAILED);
  }

  #leave(line: CommandLine, status: number): void {
    const { daemon, places, exit } = this.#parts;
    const end = () => {
      daemon.done(false);
      exit(status);
    };
    const finish = () => places.leave().then(end, end);
    line.sent().then(finish, finish);
  }
}

async function serveAlone(line: CommandLine, caller: ClientCaller): Promise<void> {
  const say = (text: string) => caller.stderr.say(text);
  takeCallersUmask(line.start.umask);
  await withWaits({ say }, () => runCommandLine(line.words, caller));
  endTrace(say);
  await caller.finish();
}
