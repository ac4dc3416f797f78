import { describeProgress, type ImageProgress } from '../image/progress.ts';

/** Shows on stderr what making an image is busy with; disposing of it ends the line. */
export interface ProgressLine extends Disposable {
  readonly report: (progress: ImageProgress) => void;
}

function counts(progress: ImageProgress): string {
  if (progress.kind === 'packages' || progress.kind === 'unpack') {
    return `: ${progress.done} of ${progress.count}`;
  }
  if (progress.kind !== 'download' || !progress.total) return '';
  return `: ${Math.floor((100 * progress.received) / progress.total)} %`;
}

/** One line that changes on a terminal; one line a step in a log, where scripts go unnamed. */
export function imageProgress(to: NodeJS.WriteStream = process.stderr): ProgressLine {
  const seen = new Set<string>();
  let shown = 0;
  const report = (progress: ImageProgress): void => {
    const text = describeProgress(progress);
    if (to.isTTY) {
      const line = `kiln: ${text}${counts(progress)}`.slice(0, (to.columns ?? 80) - 1);
      to.write(`\r${line.padEnd(shown)}`);
      shown = line.length;
      return;
    }
    if (progress.kind === 'script' || progress.kind === 'download' || seen.has(text)) return;
    seen.add(text);
    to.write(`kiln: ${text}\n`);
  };
  return {
    report,
    [Symbol.dispose]: () => {
      if (shown > 0) to.write(`\r${' '.repeat(shown)}\r`);
    },
  };
}
