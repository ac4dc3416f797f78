import '../cli/caller/last-net.ts';
import { processCaller } from '../cli/caller/process-caller.ts';
import { watchStdout } from '../cli/caller/stdout.ts';
import { runCommandLine } from '../cli/commands.ts';
import { describeError } from '../cli/output/errors.ts';
import { KILN_FAILED } from '../cli/output/exit-status.ts';
import { remoteHost } from '../cli/remote/host.ts';
import { hasAbandonedCalls } from '../host/calls/system-call.ts';
import { ownArguments } from '../host/process/own-node.ts';
import { takeUmask } from '../host/process/own-umask.ts';
import { describeStrayErrors } from '../stray-errors.ts';

describeStrayErrors(describeError);

takeUmask();

// Node ends with status 0 once nothing can happen any more, even with work that has not come to an
// end. That must not look like success.
let settled = false;
process.on('beforeExit', () => {
  // Nothing is left to do: the kernel takes the process apart faster than Node does.
  if (settled) process.exit();
  processCaller.stderr.say(
    'kiln: internal error: it stopped before its work was done; please report it\n',
  );
  process.exitCode = KILN_FAILED;
});

const argv = ownArguments();
// `run` has its own answer.
if (
  argv[0] !== 'run' ||
  argv.includes('--help') ||
  argv.includes('-h') ||
  argv.includes('--explain')
)
  watchStdout();

function settle(): void {
  settled = true;
  // They would keep the process alive until whoever hangs answers.
  if (hasAbandonedCalls()) process.exit();
}

/** Here, on another machine, or for somebody on another machine: the two last are for few, and loaded late. */
async function serve(): Promise<void> {
  if (argv[0] === 'remote-stdio') {
    const { ownEnds, serveFar } = await import('../remote/far.ts');
    await serveFar(ownEnds());
    process.exit();
  }
  const host = remoteHost(argv, processCaller.variable('KILN_HOST'));
  if (host === undefined) await runCommandLine(argv, processCaller);
  else await (await import('../cli/remote/remote.ts')).runRemote(host, processCaller);
}

// Not awaited: the bundle is CommonJS, which starts faster and has no top-level await.
serve().then(settle, settle);
