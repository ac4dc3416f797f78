import { checkPatterns } from '../artifacts/collect.ts';
import { takeName } from '../detached/names.ts';
import type { Engine, OwnEngine } from '../engine.ts';
import type { LeasedImage } from '../image/store/images.ts';
import { imageFacts } from '../image/store/manifest.ts';
import { ownResults, type Results } from '../jobs/run/collect.ts';
import { requireStart, wholeCommand } from '../jobs/run/plan.ts';
import { resultOfFailure, resultOfRun } from '../jobs/run/result.ts';
import { type RunHooks, type RunReport, run } from '../jobs/run/run.ts';
import { Timeline } from '../jobs/run/timeline.ts';
import { MOUNT } from '../options/mount.ts';
import { RUN, type RunOptions } from '../options/sandbox.ts';
import { leaseFrom } from '../snapshot/stack.ts';
import { connectCommand } from './attach.ts';
import { type Caller, listenForInterruption } from './caller/caller.ts';
import { detach } from './job/detach.ts';
import { saveJobFile } from './job/job-file.ts';
import { KilnCommand } from './options/command.ts';
import { exitStatusHelp } from './options/exit-statuses.ts';
import { heldResults, readVariables, runRequest } from './options/sandbox-options.ts';
import { CI_FILES, CiOutput } from './output/ci-output.ts';
import { exitStatus, printError, printWarning } from './output/errors.ts';
import { imageFirst, timeForCommand } from './output/mistaken-words.ts';
import { pickImageFor } from './output/progress.ts';
import {
  announce,
  printLayers,
  reportResult,
  resultsPlace,
  tellRefusals,
  tellUsualImage,
} from './output/run-report.ts';

/** Of a job that goes on by itself, the job has the name. */
function nameHook({ name, detach: goesOn }: RunOptions, { paths, owner }: Engine) {
  if (name === undefined || goesOn === true) return { knownAs: name };
  return { knownAs: name, takeName: () => takeName(paths, owner?.uid, name) };
}

export interface RunContext {
  readonly caller: Caller;
  readonly results: Results;
  pickImage(
    engine: OwnEngine,
    wanted: string | undefined,
    signal: AbortSignal,
  ): Promise<LeasedImage>;
  started?(sandbox: string | undefined): void;
  end(remove: () => Promise<void>, tell: () => Promise<void>): Promise<void>;
}

export function ownContext(caller: Caller): RunContext {
  return {
    caller,
    results: ownResults,
    pickImage: (engine, wanted, signal) => pickImageFor(caller, engine, wanted, signal),
    end: async (remove, tell) => {
      // How the command ended is known, whatever becomes of its sandbox.
      await remove().catch((error) => printError(error, caller.stderr));
      await tell();
    },
  };
}

const EXAMPLES = `${exitStatusHelp('kiln run')}
Examples:
  kiln run -r debian-build -- gcc --version
  echo 'int main(){}' | kiln run -r debian-build -- sh -c 'gcc -x c - && ls -l a.out'
  kiln run -r debian-build --bind .:/work --workdir /work --memory 2G --timeout 10m -- make
  kiln run -r debian-build --copy-in hello.c:/tmp/hello.c --workdir /tmp \\
      --artifact hello --resultdir out -- gcc -o hello hello.c
  kiln run -r debian-build --secret token=./token -- sh -c 'wc -c /run/secrets/token'
  kiln run -r debian-build --seccomp strict --explain -- true
  kiln run -r debian-build --tty -- vi
  kiln image pull docker://nginx:1.28 --name nginx && kiln run -r nginx --entrypoint '' -- nginx -v
  kiln run -r debian-build --detach --name nightly -- make; kiln logs -f nightly
  kiln run -r debian-apache --publish 8080:80 --user root -- apache2ctl -DFOREGROUND
  kiln run -r debian-build --bind .:/work --save job.yaml -- make; kiln run --file job.yaml`;

export function command(caller: Caller): KilnCommand {
  return commandFor(caller, (argv, given, it) => runGiven(argv, given, it, ownContext(caller)));
}

/** The command that is `act`'s to do. */
export function commandFor(
  caller: Caller,
  act: (argv: string[], given: RunOptions, it: KilnCommand) => Promise<void>,
): KilnCommand {
  const it = new KilnCommand('run')
    .description(
      'Run one command in a new sandbox; destroy the sandbox afterwards. Where all goes well, nothing but the output of the command is shown.',
    )
    .usage('[options] [--] [COMMAND] [ARGUMENT…]')
    .argument(
      '[command...]',
      'the command and its arguments: in place of the image’s CMD, behind its ENTRYPOINT',
    )
    .passThroughOptions();
  return it
    .rows({ ...RUN, mount: MOUNT }, caller)
    .addHelpText('after', EXAMPLES)
    .action((argv: string[], given: RunOptions) => act(argv, given, it));
}

export async function runGiven(
  argv: readonly string[],
  given: RunOptions,
  it: KilnCommand,
  context: RunContext,
): Promise<void> {
  if (given.save !== undefined) {
    await saveJobFile(given.save, argv, it.written, context.caller);
    return;
  }
  const { options, begin } = await detach(given, it, context.caller);
  const started = (sandbox: string | undefined) => {
    context.started?.(sandbox);
    begin(sandbox);
  };
  await runAndReport(argv, options, it, { ...context, started });
}

export async function runAndReport(
  argv: readonly string[],
  options: RunOptions,
  it: KilnCommand,
  context: RunContext,
): Promise<void> {
  const { caller } = context;
  await using engine = caller.openEngine({ allowHost: options.allowHost });
  const { TERM } = caller.env;
  const given = { ...(await readVariables(options.envFile ?? [], caller)), ...options.env };
  const env = options.tty === true && TERM ? { TERM, ...given } : given;
  if (options.ci !== undefined && options.tty === true)
    it.error('kiln: --ci is for what a command writes to no terminal: leave --tty out');
  refuseLearning(options, it, caller);
  const { fromSnapshot: from } = options;
  if (from !== undefined && it.isGiven('image'))
    it.error('kiln: --from has the image of the snapshot: leave -r out');
  let request = runRequest({ ...options, env }, argv, it, caller.ids);
  // Loading and connecting libvirt takes thirty milliseconds and depends on nothing below. Its error is
  // reported where the connection is needed.
  const startsOne = options.explain !== true && engine.takeTurn === undefined;
  if (startsOne) engine.connect().catch(() => undefined);
  const terminal = options.tty === true ? caller.windowSize : undefined;
  const ci = CiOutput.for(options.ci ?? 'none', caller);
  let attachment: Disposable | undefined;
  const timeline = new Timeline();
  const json = options.json === true;
  timeline.samples.isOn =
    options.samples !== false && (json || options.resultDirectory !== undefined);
  // Until the command has started, a signal is for kiln itself.
  const interruption = listenForInterruption(caller);
  let collecting: ReturnType<typeof listenForInterruption> | undefined;
  let sandbox: string | undefined;
  let used: RunReport['image'] | undefined;
  try {
    request = { ...request, ...(await heldResults(options, caller)) };
    if (argv.length === 0 && from === undefined) await requireStart(engine, options);
    checkPatterns(request.artifacts);
    timeline.enter('image');
    await using image =
      from === undefined
        ? await context.pickImage(engine, options.image, interruption.signal)
        : await leaseFrom(engine, from);
    if (options.image === undefined && from === undefined) tellUsualImage(engine, caller);
    const { id } = image.manifest;
    used = imageFacts(image.manifest);
    request = { ...request, ...wholeCommand(image.manifest, argv, options.entrypoint), image: id };
    if (options.explain === true) {
      printLayers(engine, request, image.manifest, json, caller);
      return;
    }
    const hooks: RunHooks = {
      signal: interruption.signal,
      terminal,
      ...(ci === undefined ? { handOver: caller.handOver } : { reserved: CI_FILES }),
      results: context.results,
      ...nameHook(options, engine),
      ...(options.egressLearn === true ? { learnsEgress: true } : {}),
      ...(options.explainRefusals === true ? { watchesPaths: true } : {}),
      entered: (id) => {
        sandbox = id;
      },
      // Somebody always listens: Node loses a signal that has come while nobody does.
      started: (started, kill) => {
        context.started?.(sandbox);
        attachment = connectCommand(started, kill, caller, terminal !== undefined, ci?.reader());
        interruption[Symbol.dispose]();
      },
      ended: () => {
        collecting = listenForInterruption(caller);
        attachment?.[Symbol.dispose]();
        attachment = undefined;
        return collecting.signal;
      },
      warning: (warning) => printWarning(warning, caller.stderr),
    };
    const report = await run(engine, image, request, hooks, timeline);
    announce(report, options, it, caller);
    await tellRefusals(report, request, options, caller);
    const describe = (status: number) =>
      resultOfRun({ request, exitStatus: status, renamed: engine.renamed }, report);
    await context.end(report.remove, async () => {
      const where = resultsPlace(request, report.failure);
      await reportResult(where, json, describe, caller, context.results);
      await ci?.finishRun(describe(caller.exitStatus ?? 0), where.resultDirectory);
    });
  } catch (error) {
    const mistaken = timeForCommand(error, options, argv);
    const told = mistaken ?? (it.isGiven('image') ? error : await imageFirst(error, engine, argv));
    printError(told, caller.stderr);
    caller.exitStatus = exitStatus(error);
    const { course, current, failed: phase = current } = timeline;
    const failure = { error, ...course, phase, sandbox, image: used };
    const describe = (status: number) =>
      resultOfFailure({ request, exitStatus: status, renamed: engine.renamed }, failure);
    const where = resultsPlace(request, error);
    await reportResult(where, json, describe, caller, context.results);
    await ci?.finishRun(describe(caller.exitStatus), where.resultDirectory);
  } finally {
    interruption[Symbol.dispose]();
    collecting?.[Symbol.dispose]();
    attachment?.[Symbol.dispose]();
  }
}

function refuseLearning(options: RunOptions, it: KilnCommand, caller: Caller): void {
  if (options.egressLearn !== true) return;
  if (options.keep !== undefined || options.detach === true)
    it.error(
      'kiln: --egress-learn is for one command that you watch: leave out --keep and --detach',
    );
  if (options.explain === true) return;
  caller.stderr.say(
    'kiln: WARNING: --egress-learn lets the command reach every public host, and send there what it reads\n',
  );
}
