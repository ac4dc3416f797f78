import '../stray-errors.ts'; // First, so that failures while other modules load are caught.
import { processCaller } from '../cli/caller/process-caller.ts';
import { remoteHost, runCommandLine } from '../cli/commands.ts';
import { describeError, KILN_FAILED, printError } from '../cli/output/errors.ts';
import { KilnError } from '../errors.ts';
import { hasAbandonedCalls } from '../host/calls/system-call.ts';
import { ownArguments } from '../host/process/own-node.ts';
import { takeUmask } from '../host/process/own-umask.ts';
import { nameProcess } from '../host/process/process.ts';
import { describeStrayErrors } from '../stray-errors.ts';

describeStrayErrors(describeError);

takeUmask();
// ps and top show those that stay, as `kiln metrics --listen`.
nameProcess('kiln');

// Node ends with status 0 when nothing can happen any more; unfinished work must not look like success.
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
watchStdout();

function settle(): void {
  settled = true;
  // They would keep the process alive until whoever hangs answers.
  if (hasAbandonedCalls()) process.exit();
}

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
serve()
  .finally(() => processCaller.paths[Symbol.asyncDispose]())
  .then(settle, settle);

/** Ends quietly when the reader has seen enough (`kiln image ls | head`), and fails if output cannot be written. */
export function watchStdout(): void {
  process.stdout.on('error', (cause: NodeJS.ErrnoException) => {
    if (cause.code === 'EPIPE') return;
    printError(
      new KilnError('E_OUTPUT', 'standard output cannot be written', {
        hint: 'make room where it goes, or send it elsewhere',
        cause,
      }),
      processCaller.stderr,
    );
    process.exit(KILN_FAILED);
  });
}
