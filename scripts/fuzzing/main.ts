/** scripts/fuzz: the long campaign over RPM packages. See docs/testing.md. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { attempt } from '../../src/host/calls/libc.ts';
import { interruption, scratchFolder } from '../scratch.ts';
import { scriptOptions } from '../testing/options.ts';
import { type Batch, STAGES } from './rpm/worker.ts';

const top = join(import.meta.dirname, '../..');

const values = scriptOptions({
  count: { type: 'string', default: '1000000' },
  first: { type: 'string', default: '0' },
  minutes: { type: 'string' },
  corpus: { type: 'string', multiple: true, default: [join(top, 'fixtures/rpms')] },
});

/** A batch takes about a second, more on a busy machine; one that takes this long hangs. Milliseconds. */
const HANG = 180_000;

/** Mutants of one process: what little it keeps of each shall not add up. */
const PER_PROCESS = 20_000;

/** What all mutants together came to. */
interface Report {
  done: number;
  resealed: number;
  hangs: number;
  crashes: number;
  readonly stages: Map<string, number>;
  readonly resealedStages: Map<string, number>;
  readonly codes: Map<string, number>;
  readonly wrong: string[];
}

function packages(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.rpm'))
    .map((name) => join(folder, name))
    .sort();
}

function add(
  counts: Map<string, number>,
  more: Readonly<Record<string, number | undefined>>,
): void {
  for (const [key, count] of Object.entries(more))
    counts.set(key, (counts.get(key) ?? 0) + (count ?? 0));
}

function take(report: Report, batch: Batch): void {
  report.done += batch.done;
  report.resealed += batch.resealed;
  add(report.stages, batch.stages);
  add(report.resealedStages, batch.resealedStages);
  add(report.codes, batch.codes);
  report.wrong.push(...batch.wrong);
}

/** Runs one worker; gives the seed to go on with. */
async function work(
  report: Report,
  from: number,
  count: number,
  corpus: readonly string[],
  stop: AbortSignal,
): Promise<number> {
  const root = mkdtempSync(join(tmpdir(), 'kiln-fuzz-'));
  const script = 'mount -t tmpfs -o size=256m,mode=755 none "$1" && shift && exec "$@"';
  const worker = join(import.meta.dirname, 'rpm/worker.ts');
  const child = spawn(
    'unshare',
    [
      ...['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', root],
      ...[process.execPath, worker, root, String(from), String(count), ...corpus],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => {
    errors = `${errors}${chunk}`.slice(-4000);
  });
  let hung = false;
  const watch = setTimeout(() => {
    hung = true;
    child.kill('SIGKILL');
  }, HANG);
  const end = () => child.kill('SIGKILL');
  stop.addEventListener('abort', end, { once: true });
  let done = 0;
  const exit = once(child, 'exit');
  for await (const line of createInterface(child.stdout)) {
    watch.refresh();
    const batch = JSON.parse(line) as Batch;
    take(report, batch);
    done += batch.done;
    if (done % 10_000 === 0) say(`${report.done} mutants, ${report.wrong.length} wrong`);
  }
  const [code, signal] = (await exit) as [number | null, string | null];
  clearTimeout(watch);
  stop.removeEventListener('abort', end);
  // One that was interrupted at its start has written none.
  const written = attempt(() => readFileSync(`${root}.seed`, 'latin1'));
  const seed = Number(written || from);
  rmSync(`${root}.seed`, { force: true });
  rmSync(root, { recursive: true, force: true });
  if (code === 0 || stop.aborted) return from + done;
  if (hung) report.hangs++;
  else report.crashes++;
  report.wrong.push(`seed ${seed}: ${hung ? 'hangs' : `${code ?? signal}: ${errors}`}`);
  // What came before it in its batch is not counted.
  return seed + 1;
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

function describeReport(report: Report, seconds: number): string {
  const row = (name: string, count: number, all: number) => {
    const share = count / Math.max(1, all);
    return `  ${name.padEnd(20)} ${String(count).padStart(8)} ${(100 * share).toFixed(1).padStart(5)} % ${'#'.repeat(Math.round(60 * share))}`;
  };
  const stages = (counts: ReadonlyMap<string, number>, all: number) =>
    STAGES.map((stage) => row(stage, counts.get(stage) ?? 0, all));
  return [
    `${report.done} mutants in ${seconds.toFixed(0)} s, ${report.resealed} of them resealed`,
    'came to their end in:',
    ...stages(report.stages, report.done),
    'those resealed:',
    ...stages(report.resealedStages, report.resealed),
    'with:',
    ...[...report.codes]
      .sort((a, b) => b[1] - a[1])
      .map(([code, count]) => row(code, count, report.done)),
    `crashes: ${report.crashes}, hangs: ${report.hangs}, wrong in all: ${report.wrong.length}`,
    ...report.wrong.map((line) => `  ${line}`),
  ].join('\n');
}

async function main(): Promise<number> {
  const corpus = values.corpus.flatMap(packages);
  const [first, count] = [Number(values.first), Number(values.count)];
  const stop = new AbortController();
  scratchFolder('fuzz');
  const stops = AbortSignal.any([stop.signal, interruption()]);
  const timer =
    values.minutes === undefined
      ? undefined
      : setTimeout(() => stop.abort(), Number(values.minutes) * 60_000);
  const report: Report = {
    ...{ done: 0, resealed: 0, hangs: 0, crashes: 0 },
    ...{ stages: new Map(), resealedStages: new Map(), codes: new Map(), wrong: [] },
  };
  const started = performance.now();
  say(`corpus: ${corpus.length} packages; seeds ${first} to ${first + count}`);
  for (let seed = first; seed < first + count && !stops.aborted; ) {
    seed = await work(report, seed, Math.min(PER_PROCESS, first + count - seed), corpus, stops);
  }
  clearTimeout(timer);
  say(describeReport(report, (performance.now() - started) / 1000));
  return report.wrong.length === 0 ? 0 : 1;
}

// At ^C it is not 0 already.
if ((await main()) > 0) process.exitCode = 1;
