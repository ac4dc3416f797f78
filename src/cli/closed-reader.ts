/**
 * A reader that has seen enough (`kiln image ls | head`) is no failure. Not for all that is started:
 * the stream of stdout takes a millisecond to make, and what `run` passes on does not go through it.
 */
export function tolerateClosedReader(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
}
