import { KilnError } from '../../errors.ts';
import { printError } from '../output/errors.ts';
import { KILN_FAILED } from '../output/exit-status.ts';
import { processCaller } from './process-caller.ts';

/**
 * A reader that has seen enough (`kiln image ls | head`) is no failure; an answer that cannot be
 * written is one. Not for all that is started: the stream of stdout takes a millisecond to make, and
 * what `run` passes on does not go through it.
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
