/** Times the sides of a row in turn, so that a machine that slows down slows all of them. */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

/** One way of doing the row's work; the number it gives is its own measure. */
export interface Side {
  readonly name: string;
  /** Not timed: brings back what the last run has used up. */
  readonly before?: () => Promise<void>;
  /** Does it once. What it returns, milliseconds or MB, replaces the wall-clock time. */
  readonly run: () => Promise<number | undefined>;
}

/** Of one side, in milliseconds (of memory: MB). */
export interface Figures {
  readonly name: string;
  readonly runs: number;
  readonly min: number;
  readonly median: number;
  readonly p95: number;
  readonly p99: number;
  readonly max: number;
}

/**
 * Before each run, milliseconds: what the run before has left to others is over by then, such as the end
 * of a domain, with which libvirtd is busy for 0.2 s, or the start of a sandbox that waits for the next run.
 */
const REST = 300;

/** Runs every side `warmUps` times unmeasured, then all of them in turn, `runs` times. */
export async function interleave(
  sides: readonly Side[],
  runs: number,
  { warmUps = 1, rest = REST }: { readonly warmUps?: number; readonly rest?: number } = {},
): Promise<Figures[]> {
  const times: number[][] = sides.map(() => []);
  for (let round = 1 - warmUps; round <= runs; round++) {
    for (const [index, side] of sides.entries()) {
      await side.before?.();
      await sleep(rest);
      const start = performance.now();
      const own = await side.run();
      const time = own ?? performance.now() - start;
      if (round > 0) times[index]?.push(time);
    }
  }
  return sides.map(({ name }, index) => figures(name, times[index] ?? []));
}

/** What the times of a side come to. */
export function figures(name: string, times: readonly number[]): Figures {
  const sorted = [...times].sort((a, b) => a - b);
  const at = (part: number) =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
  const rounded = (value = Number.NaN) => Math.round(value * 1000) / 1000;
  return {
    name,
    runs: sorted.length,
    min: rounded(sorted[0]),
    median: rounded(median(sorted)),
    p95: rounded(at(0.95)),
    p99: rounded(at(0.99)),
    max: rounded(sorted.at(-1)),
  };
}

function median(sorted: readonly number[]): number | undefined {
  const [below, above] = [sorted[(sorted.length - 1) >> 1], sorted[sorted.length >> 1]];
  return below === undefined || above === undefined ? undefined : (below + above) / 2;
}

/** Runs a program to its end. Throws when it fails: a time of something that failed is none. */
export async function execute(
  argv: readonly string[],
  env: NodeJS.ProcessEnv = process.env,
): Promise<undefined> {
  const [program = '', ...args] = argv;
  const child = spawn(program, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => {
    log = (log + chunk.toString()).slice(-2000);
  });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (status !== 0) throw new Error(`${argv.join(' ')}: exit status ${status}\n${log}`);
}

/** A side that is a shell command. */
export function shell(name: string, script: string, env?: NodeJS.ProcessEnv): Side {
  return { name, run: () => execute(['sh', '-c', script], env) };
}
