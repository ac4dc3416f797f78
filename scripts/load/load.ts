/** The whole load test: measures before and after each part, and judges. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { type Kiln, openKiln } from '../../test/support/kiln.ts';
import { clientsAtOnce, clientsOneByOne } from './clients.ts';
import { type Counts, measure } from './measure.ts';
import { allAtOnce, oneByOne } from './sandboxes.ts';
import { makeMess } from './week.ts';

/** How much of what. */
export interface LoadOptions {
  readonly atOnce: number;
  readonly oneByOne: number;
  /** Remains of each kind. */
  readonly week: number;
  readonly say: (line: string) => void;
}

/** What came of it. */
export interface LoadReport {
  /** In the order in which they were taken. */
  readonly columns: readonly { readonly name: string; readonly counts: Counts }[];
  /** What is wrong, a line each. */
  readonly wrong: readonly string[];
}

/** Where it works: a state directory of its own, with an image. */
export interface LoadGround {
  readonly paths: StatePaths;
  readonly env: NodeJS.ProcessEnv;
  readonly image: string;
}

const KILN = join(import.meta.dirname, '../../dist/kiln.cjs');

/** Sandboxes before the first measurement: libraries are loaded, pools filled, caches written. */
const WARM_UP = 10;

/** What memory may grow by with a peak: allocators keep what they had, and peaks differ. Bytes. */
const PEAK_SLACK = 48 << 20;

/** What it may grow by otherwise. Bytes. */
const SLACK = 16 << 20;

/** What it may grow by for each sandbox of a sequence, where a leak would show. Bytes. */
const SLACK_PER_SANDBOX = 4 << 10;

/** How long what is being taken down may take, ms. */
const GRACE = 30_000;

/** What clients have kiln do is done in these: here, there is only the program that starts them. */
const ELSEWHERE = ['memory of libvirtd', 'memory of kilnd'] as const;
const MEMORY = ['memory here', ...ELSEWHERE] as const;
const LIVELY = [...MEMORY, 'threads of libvirtd', 'bytes on disk'] as const;

/** Runs it. */
export async function load(ground: LoadGround, options: LoadOptions): Promise<LoadReport> {
  const { paths, image } = ground;
  const temporary = join(paths.root, 'tmp');
  mkdirSync(temporary);
  const env = { ...ground.env, TMPDIR: temporary };
  process.env.TMPDIR = temporary;
  const { say } = options;
  const wrong: string[] = [];
  const columns: { name: string; counts: Counts }[] = [];
  const take = async (name: string, settled?: Counts) => {
    const counts = await settle(paths, temporary, settled);
    columns.push({ name, counts });
    say(name);
    return counts;
  };
  await using kiln = openKiln({ env });
  wrong.push(...(await allAtOnce(kiln, image, options.atOnce, async () => undefined)));
  wrong.push(...(await oneByOne(kiln, image, WARM_UP)));
  wrong.push(...(await clientsAtOnce(ground, options.atOnce)));
  wrong.push(...(await clientsOneByOne(ground, WARM_UP)));
  // The store's folders are made when it is first looked through, that of sandboxes on their way out by
  // the next sandbox.
  await execa(process.execPath, [KILN, 'gc'], { env });
  wrong.push(...(await oneByOne(kiln, image, 1)));
  const before = await take('before');
  if (before.domains > 0) wrong.push(`${before.domains} domains are left of those before`);
  wrong.push(
    ...(await allAtOnce(kiln, image, options.atOnce, async () => {
      columns.push({
        name: `${options.atOnce} at once`,
        counts: await measure(paths, temporary),
      });
    })),
  );
  const after = await take('after them', before);
  wrong.push(...judge('sandboxes at once', before, after, PEAK_SLACK));
  wrong.push(...(await clientsAtOnce(ground, options.atOnce)));
  const afterClients = await take('after clients', before);
  wrong.push(...judge('clients at once', after, afterClients, PEAK_SLACK, ELSEWHERE));
  wrong.push(...(await clientsOneByOne(ground, options.oneByOne)));
  const many = await take(`after ${options.oneByOne} clients`, before);
  const slack = SLACK + options.oneByOne * SLACK_PER_SANDBOX;
  wrong.push(...judge('clients one by one', afterClients, many, slack, ELSEWHERE));
  const began = performance.now();
  wrong.push(...(await oneByOne(kiln, image, options.oneByOne)));
  say(`${options.oneByOne} sandboxes in ${((performance.now() - began) / 1000).toFixed(0)} s`);
  const sequence = await take(`after ${options.oneByOne}`, before);
  wrong.push(...judge('sandboxes one by one', many, sequence, slack));
  if (options.week > 0) {
    wrong.push(...(await week({ paths, env, image }, options.week, kiln, columns, temporary)));
    // A new daemon: what it takes is to be compared with nothing.
    const end = await take('after gc', before);
    wrong.push(...judge('the week', sequence, end, PEAK_SLACK));
  }
  return { columns, wrong };
}

async function week(
  ground: LoadGround,
  count: number,
  kiln: Kiln,
  columns: { name: string; counts: Counts }[],
  temporary: string,
): Promise<string[]> {
  await makeMess({ ...ground, count });
  const mess = await measure(ground.paths, temporary);
  columns.push({ name: 'a bad week', counts: mess });
  const gc = await execa(process.execPath, [KILN, 'gc'], { env: ground.env, reject: false });
  const wrong = gc.exitCode === 0 ? [] : [`kiln gc: ${gc.stderr}`];
  // What cannot be seen to be there cannot be seen to go.
  if (mess['files in /run'] < count || mess['files on disk'] < 3 * count) {
    wrong.push('the week left less than it should have');
  }
  return [...wrong, ...(await oneByOne(kiln, ground.image, 1))];
}

/** Measures; again while something is there that was not, until it has had its time. */
async function settle(paths: StatePaths, temporary: string, wanted?: Counts): Promise<Counts> {
  for (const end = Date.now() + GRACE; ; await sleep(500)) {
    const now = await measure(paths, temporary);
    const left = wanted === undefined ? now.domains > 0 : grown(wanted, now).length > 0;
    if (!left || Date.now() > end) return now;
  }
}

/** What there is more of than there was, apart from memory and threads. */
function grown(before: Counts, after: Counts): (keyof Counts)[] {
  const names = Object.keys(before) as (keyof Counts)[];
  return names.filter(
    (name) => !(LIVELY as readonly string[]).includes(name) && after[name] > before[name],
  );
}

function judge(
  what: string,
  before: Counts,
  after: Counts,
  slack: number,
  memory: readonly (typeof MEMORY)[number][] = MEMORY,
): string[] {
  const line = (name: keyof Counts) =>
    `${what}: ${name}: ${before[name]} before, ${after[name]} after`;
  const fat = memory.filter((name) => after[name] > before[name] + slack);
  const disk = after['bytes on disk'] > before['bytes on disk'] + (1 << 20);
  const threads = after['threads of libvirtd'] > 2 * before['threads of libvirtd'];
  return [
    ...[...grown(before, after), ...fat].map(line),
    ...(disk ? [line('bytes on disk')] : []),
    ...(threads ? [line('threads of libvirtd')] : []),
  ];
}

/** The report as a table. */
export function describeLoad({ columns, wrong }: LoadReport): string {
  const names = Object.keys(columns[0]?.counts ?? {}) as (keyof Counts)[];
  const show = (name: keyof Counts, value: number) =>
    /memory|bytes/.test(name) ? `${(value / 2 ** 20).toFixed(1)} MiB` : String(value);
  const width = Math.max(11, ...columns.map(({ name }) => name.length)) + 2;
  const row = (head: string, cells: readonly string[]) =>
    head.padEnd(24) + cells.map((cell) => cell.padStart(width)).join('');
  return [
    row(
      '',
      columns.map(({ name }) => name),
    ),
    ...names.map((name) =>
      row(
        name,
        columns.map(({ counts }) => show(name, counts[name])),
      ),
    ),
    `wrong: ${wrong.length}`,
    ...wrong.map((text) => `  ${text}`),
  ].join('\n');
}
