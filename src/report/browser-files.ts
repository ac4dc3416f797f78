/** The scripts and styles of report.html, as files of the package. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../host/state/paths.ts';

export interface BrowserFiles {
  readonly script: string;
  readonly style: string;
  /** uPlot's, https://github.com/leeoniya/uPlot: only where there is something to plot. */
  readonly plotScript: string;
  readonly plotStyle: string;
}

let read: BrowserFiles | undefined;

/** The files, read once: scripts/build.ts has put them into dist/. */
export function browserFiles(): BrowserFiles {
  const file = (name: string) => readFileSync(join(packageRoot(), 'dist/report', name), 'utf8');
  read ??= {
    script: file('report.js'),
    style: file('report.css'),
    plotScript: file('uplot.js'),
    plotStyle: file('uplot.css'),
  };
  return read;
}
