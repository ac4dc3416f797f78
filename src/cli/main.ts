import './last-net.ts';
import { ownArguments } from '../kernel/own-node.ts';
import { takeUmask } from '../kernel/own-umask.ts';
import { hasAbandonedCalls } from '../kernel/system-call.ts';
import { describeStrayErrors } from '../stray-errors.ts';
import { runCommandLine } from './commands.ts';
import { describeError } from './errors.ts';
import { KILN_FAILED } from './exit-status.ts';
import { processCaller } from './process-caller.ts';
import { watchStdout } from './stdout.ts';

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

// Not awaited: the bundle is CommonJS, which starts faster and has no top-level await.
runCommandLine(argv, processCaller).then(settle, settle);
