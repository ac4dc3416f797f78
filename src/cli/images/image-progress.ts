import { describeProgress, type ImageProgress } from '../../image/progress.ts';
import type { TextOutput } from '../caller/caller.ts';
import { ChangingLine } from '../output/changing-line.ts';

/** Shows the progress of making an image; disposing ends the line. */
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

/** One changing line on a terminal; one line for each step in a log, without names of scripts. */
export function imageProgress(to: TextOutput): ProgressLine {
  const seen = new Set<string>();
  let line: ChangingLine | undefined;
  const report = (progress: ImageProgress): void => {
    const text = describeProgress(progress);
    if (to.isTTY) {
      line ??= new ChangingLine(to);
      line.show(`${text}${counts(progress)}`);
      return;
    }
    if (progress.kind === 'script' || progress.kind === 'download' || seen.has(text)) return;
    seen.add(text);
    to.say(`kiln: ${text}\n`);
  };
  return { report, [Symbol.dispose]: () => line?.[Symbol.dispose]() };
}
