/** scripts/bench: measures the rows of docs/performance.md, each side in turn with the other. */

import { spawnSync } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { cpus, loadavg, release } from 'node:os';
import { join } from 'node:path';
import { scratchFolder } from '../scratch.ts';
import { refuseCall, scriptOptions } from '../testing/options.ts';
import { makeBed, top } from './bed.ts';
import { checkLayers } from './layers.ts';
import { interleave } from './measure.ts';
import {
  type HostedOutcome,
  hostsOf,
  markdownTable,
  type Outcome,
  outcomeOf,
  svgPlot,
} from './report.ts';
import { rows } from './rows.ts';

const values = scriptOptions({
  only: { type: 'string' },
  quick: { type: 'boolean', default: false },
  recipe: { type: 'string', default: 'debian-build' },
  runs: { type: 'string' },
  isolation: { type: 'string', default: 'container' },
  list: { type: 'boolean', default: false },
});

/** Runs a side. */
const RUNS = { whole: 21, quick: 5, quickSlow: 2 } as const;
const BEGIN = '<!-- scripts/bench writes from here -->';
const END = '<!-- to here -->';
const PLOT = '![each row by its goal](../bench/results.svg)';

async function measureAll(only: ReadonlySet<string> | undefined): Promise<Outcome[]> {
  scratchFolder('bench');
  await using bed = await makeBed(values.recipe);
  await bed.park(2);
  const layers = await checkLayers(bed);
  process.stdout.write(`in force in the measured process: ${JSON.stringify(layers)}\n`);
  const outcomes: Outcome[] = [];
  for (const row of measured) {
    if (only !== undefined && !only.has(row.id)) continue;
    if (row.needs !== undefined && !isInstalled(row.needs)) {
      process.stdout.write(`${row.id}: left out, there is no ${row.needs} on PATH\n`);
      continue;
    }
    const quick = row.slow === true ? RUNS.quickSlow : RUNS.quick;
    const usual = values.quick ? quick : RUNS.whole;
    const runs = Number(values.runs ?? usual);
    try {
      const figures =
        'measure' in row
          ? await row.measure(bed, values.quick)
          : await interleave(await row.sides(bed), runs, row);
      const outcome = outcomeOf(row, figures);
      outcomes.push(outcome);
      process.stdout.write(`${markdownTable([outcome]).split('\n').at(-1)}\n`);
    } catch (error) {
      process.stdout.write(`${row.id}: ${(error as Error).message}\n`);
      process.exitCode = 1;
    }
  }
  return outcomes;
}

function isInstalled(command: string): boolean {
  return spawnSync('sh', ['-c', 'command -v "$0"', command]).status === 0;
}

async function write(outcomes: readonly Outcome[]): Promise<void> {
  const directory = join(top, 'bench');
  await mkdir(directory, { recursive: true });
  const file = join(directory, 'results.json');
  const before = await readFile(file, 'utf8').then(
    (text) => (JSON.parse(text) as { outcomes: HostedOutcome[] }).outcomes,
    () => [],
  );
  const host = `${cpus().length} cores of ${cpus()[0]?.model}, Linux ${release()}, Node ${process.version}`;
  const measuredNow = `${host}; ${new Date().toISOString().slice(0, 10)}; load ${loadavg()[0]?.toFixed(1)}`;
  // A row that was not measured now keeps what it had, and where.
  const all = rows.flatMap(({ id }) => {
    const now = outcomes.find((one) => one.id === id);
    const found = now ? { ...now, host: measuredNow } : before.find((one) => one.id === id);
    return found === undefined ? [] : [found];
  });
  await writeFile(file, `${JSON.stringify({ outcomes: all }, null, 2)}\n`);
  await writeFile(join(directory, 'results.svg'), svgPlot(all));
  const page = join(top, 'docs/performance.md');
  const text = await readFile(page, 'utf8');
  const [start, end] = [text.indexOf(BEGIN) + BEGIN.length, text.indexOf(END)];
  await writeFile(
    page,
    `${text.slice(0, start)}\n\n${markdownTable(all)}\n\n${hostsOf(all)}\n\n${PLOT}\n\n${text.slice(end)}`,
  );
}

if (!['container', 'vm'].includes(values.isolation)) refuseCall('--isolation: container or vm');
const measured = rows.filter(({ isolation = 'container' }) => isolation === values.isolation);
const ids = measured.map((row) => row.id);
if (values.list) process.stdout.write(`${ids.join('\n')}\n`);
else {
  const only = values.only?.split(',');
  const unknown = (only ?? []).filter((id) => !ids.includes(id));
  if (unknown.length > 0)
    refuseCall(`--only: no row is called ${unknown.join(', ')}; the rows: ${ids.join(', ')}`);
  const outcomes = await measureAll(only && new Set(only));
  if (!values.quick && outcomes.length > 0) await write(outcomes);
}
