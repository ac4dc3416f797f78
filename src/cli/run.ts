import { type Command, InvalidArgumentError, Option } from 'commander';
import type { OwnEngine } from '../engine.ts';
import type { LeasedImage } from '../image/store/images.ts';
import { describeRefusal, mayExplainFailure } from '../jobs/run/refusal.ts';
import { resultOfFailure, resultOfRun } from '../jobs/run/result.ts';
import { ownResults, type Results } from '../jobs/run/results.ts';
import { type RunHooks, type RunReport, run } from '../jobs/run/run.ts';
import { Timeline } from '../jobs/run/timeline.ts';
import { type Attachment, connectCommand, relayableOutput } from './attach.ts';
import type { Caller } from './caller/caller.ts';
import { listenForInterruption } from './caller/interruption.ts';
import { imageFirst, pickImageFor } from './images/pick-image.ts';
import { addDetachOptions, type DetachOptions, detach } from './job/detach.ts';
import { EqualsCommand } from './options/optional-value.ts';
import { addSandboxOptions, runRequest, type SandboxOptions } from './options/sandbox-options.ts';
import { printEgressRefusals } from './output/egress-refusals.ts';
import { printError } from './output/errors.ts';
import { commandStatus, exitStatus, KILN_FAILED } from './output/exit-status.ts';
import { printLayers } from './output/explain.ts';
import { reportResult } from './output/report-result.ts';

export interface RunOptions extends SandboxOptions, DetachOptions {
  readonly json?: boolean;
  readonly tty?: boolean;
  readonly explain?: boolean;
  readonly interactive?: boolean;
  readonly rm?: boolean;
  readonly samples?: boolean;
}

/** The surroundings of a run: a process of its own, or one with many runs. */
export interface RunContext {
  readonly caller: Caller;
  /** Writes results into the caller's directory. */
  readonly results: Results;
  /** Leases the image that the caller means. */
  pickImage(
    engine: OwnEngine,
    wanted: string | undefined,
    signal: AbortSignal,
  ): Promise<LeasedImage>;
  /** Called when the command has started. */
  started?(): void;
  /** Waits for the sandbox's removal if nobody else does. */
  removed(removal: Promise<void>): Promise<void>;
}

/** Thrown before anything has happened: this run needs a process of its own. */
export class RunElsewhere extends Error {}

/** The context in a process that does nothing else. */
export function ownContext(caller: Caller): RunContext {
  return {
    caller,
    results: ownResults,
    pickImage: (engine, wanted, signal) => pickImageFor(caller, engine, wanted, signal),
    removed: (removal) => removal,
  };
}

const EXAMPLES = `
The exit status is that of the command. kiln’s own: 124 the time limit was reached; 125 kiln failed;
126 the command cannot be executed; 127 the image does not have it; 128+n signal n ended it.

Examples:
  kiln run -r debian-build -- gcc --version
  echo 'int main(){}' | kiln run -r debian-build -- sh -c 'gcc -x c - && ls -l a.out'
  kiln run -r debian-build --bind .:/work --workdir /work --memory 2G --timeout 10m -- make
  kiln run -r debian-build --copy-in hello.c:/tmp/hello.c --workdir /tmp \\
      --artifact hello --resultdir out -- gcc -o hello hello.c
  kiln run -r debian-build --secret token=./token -- sh -c 'wc -c /run/secrets/token'
  kiln run -r debian-build --seccomp strict --explain -- true
  kiln run -r debian-build --tty -- vi
  kiln run -r debian-build --detach --name nightly -- make; kiln logs -f nightly`;

/** `kiln run`. */
export function command(caller: Caller): Command {
  return commandIn(ownContext(caller));
}

/** The same with another context. */
export function commandIn(context: RunContext): Command {
  const it = new EqualsCommand('run')
    .description('Run one command in a new sandbox; destroy the sandbox afterwards.')
    .usage('[options] [--] COMMAND [ARGUMENT…]')
    .argument('<command...>', 'the command and its arguments')
    .passThroughOptions();
  return addDetachOptions(addSandboxOptions(it, context.caller))
    .option('--json', 'print the result as JSON, as the last line of stderr; see docs/result.md')
    .option('-t, --tty', 'give the command a terminal (colours, line editing, window size)')
    .option(
      '-i, --interactive',
      'change nothing: the command always reads kiln’s stdin; for podman’s -it',
    )
    .option(
      '--rm',
      'change nothing: the sandbox is destroyed unless --keep is given; for podman’s --rm',
    )
    .addOption(publishOption())
    .option('--explain', 'print which layers of protection the command would have; run nothing')
    .option('--no-samples', 'do not record resource use over time in result.json')
    .addHelpText('after', EXAMPLES)
    .action(async (argv: string[], given: RunOptions) => {
      const { options, begin } = await detach(given, it, context.caller);
      const started = () => {
        context.started?.();
        begin();
      };
      await runCommand(argv, options, it, { ...context, started });
    });
}

/** podman's: a command has no ports. */
function publishOption(): Option {
  return new Option('-p, --publish <port>', 'refuse, and name kiln service')
    .hideHelp()
    .argParser(() => {
      throw new InvalidArgumentError(
        'A command has no ports; a service has: kiln service create --publish.',
      );
    });
}

/** Runs `argv` with these options and sets kiln's exit status. `shell` uses it, too. */
export async function runCommand(
  argv: readonly string[],
  options: RunOptions,
  it: Command,
  context: RunContext,
): Promise<void> {
  const { caller } = context;
  await using engine = caller.openEngine({ hurry: true });
  const { TERM } = caller.env;
  const env =
    options.tty === true && TERM ? [['TERM', TERM] as const, ...options.env] : options.env;
  let request = runRequest({ ...options, env }, options.image ?? '', argv, it, caller);
  // Loading and connecting libvirt takes thirty milliseconds and depends on nothing below. Its error is
  // reported where the connection is needed.
  if (options.explain !== true && engine.takeParked === undefined)
    engine.connect().catch(() => undefined);
  const terminal = options.tty === true ? caller.windowSize : undefined;
  let attachment: Attachment | undefined;
  const timeline = new Timeline();
  const json = options.json === true;
  timeline.samples.isOn =
    options.samples !== false && (json || request.resultDirectory !== undefined);
  // Until the command has started, a signal is for kiln itself.
  const interruption = listenForInterruption(caller);
  let collecting: ReturnType<typeof listenForInterruption> | undefined;
  let sandbox: string | undefined;
  let used: RunReport['image'] | undefined;
  try {
    await using image = await context
      .pickImage(engine, options.image, interruption.signal)
      .catch(async (error) => {
        throw options.image === undefined ? await imageFirst(error, engine, argv) : error;
      });
    const { id, name } = image.manifest;
    used = { id, name };
    request = { ...request, image: id };
    if (options.explain === true) {
      printLayers(engine, request, image.manifest, json, caller);
      return;
    }
    const { handOver } = caller;
    const own = handOver === undefined;
    const isDetached = options.detach === true;
    const relay = own && !isDetached && terminal === undefined ? relayableOutput() : undefined;
    const hooks: RunHooks = {
      signal: interruption.signal,
      terminal,
      relay,
      handOver,
      results: context.results,
      entered: (id) => {
        sandbox = id;
      },
      started: (started, kill) => {
        interruption[Symbol.dispose]();
        context.started?.();
        const isTerminal = terminal !== undefined;
        attachment = connectCommand(started, kill, caller, isTerminal, relay);
      },
      ended: () => {
        attachment?.detach();
        attachment = undefined;
        collecting = listenForInterruption(caller);
        return collecting.signal;
      },
      warning: ({ message }) => caller.stderr.say(`kiln: warning: ${message}\n`),
    };
    const report = await run(engine, request, hooks, timeline);
    announce(report, options, caller);
    await context.removed(report.removed);
    await reportResult(request, json, (known) => resultOfRun(known, report), context);
  } catch (error) {
    if (error instanceof RunElsewhere) throw error;
    printError(error, caller.stderr);
    caller.exitStatus = exitStatus(error);
    const { course, current, failed: phase = current } = timeline;
    const failure = { error, ...course, phase, sandbox, image: used };
    await reportResult(request, json, (known) => resultOfFailure(known, failure), context);
  } finally {
    interruption[Symbol.dispose]();
    collecting?.[Symbol.dispose]();
    attachment?.detach();
  }
}

/** Sets the exit status, and prints what it does not tell. */
function announce(report: RunReport, options: RunOptions, caller: Caller): void {
  if (report.limitHit !== null) {
    caller.stderr.say(`kiln: ${limitText(report.limitHit, options)}\n`);
  }
  caller.exitStatus = commandStatus(report.end);
  if (report.failure !== undefined) {
    printError(report.failure, caller.stderr);
    if (caller.exitStatus === 0) caller.exitStatus = KILN_FAILED;
  }
  const { refused = [] } = report;
  const calls = refused.map(describeRefusal).filter(mayExplainFailure);
  if (caller.exitStatus !== 0 && calls.length > 0) {
    const text = calls.map(({ syscall, action }) => `${syscall} (${action})`).join(', ');
    caller.stderr.say(`kiln: refused system calls, which may be why: ${text}\n`);
  }
  printEgressRefusals(report.egress ?? [], caller.stderr);
  if (options.keep !== undefined) {
    caller.stderr.say(`kiln: kept as ${report.sandbox}: kiln shell ${report.sandbox}\n`);
  }
}

function limitText(limit: string, options: RunOptions): string {
  if (limit === 'timeout')
    return `the command was ended after ${(options.timeout ?? 0) / 1000} s: the time limit was reached (--timeout)`;
  if (limit === 'stall')
    return `the command was ended: it wrote nothing for ${(options.stallTimeout ?? 0) / 1000} s (--stall-timeout)`;
  if (limit === 'memory')
    return 'the kernel killed a process: the memory limit was reached (--memory)';
  if (limit === 'pids')
    return 'the command could not start a process: the limit was reached (--pids)';
  return 'a file system of the sandbox is full: the disk limit was reached (--disk)';
}
