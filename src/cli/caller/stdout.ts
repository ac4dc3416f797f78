import { KilnError } from '../../errors.ts';
import { printError } from '../output/errors.ts';
import { KILN_FAILED } from '../output/exit-status.ts';
import { processCaller } from './process-caller.ts';

/**
 * Ends quietly when the reader has seen enough (`kiln image ls | head`), and fails if output cannot be written.
 * Called only where it is needed: making the stream of stdout takes a millisecond, and `run` does not use it.
 */
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
