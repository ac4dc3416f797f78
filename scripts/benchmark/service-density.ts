/**
 * How many services fit on a machine: makes N idle Apache services on one image, starts them, and
 * prints what each takes.
 *
 *     scripts/service-density [N]        20 unless given; KILN_STATE says where
 *
 * The services are called density-1 to density-N; they are deleted at the end.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { interruption } from '../scratch.ts';

const count = Number(process.argv[2] ?? 20);
const names = Array.from({ length: count }, (_, index) => `density-${index + 1}`);
const program = join(import.meta.dirname, '../../bin/kiln');
const cancelSignal = interruption();
const kiln = (...args: string[]) => execa(program, ['service', ...args], { cancelSignal });
/** For what has to be done after ^C as well, and is not done where it was not made. */
const atEnd = (...args: string[]) =>
  execa(program, ['service', ...args], { detached: true, reject: false });

/** Kilobytes of a line of a /proc file, summed over processes. */
async function kilobytes(pids: readonly number[], file: string, line: string): Promise<number> {
  let sum = 0;
  for (const pid of pids) {
    const text = await readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '');
    sum += Number(new RegExp(`^${line}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0);
  }
  return sum;
}

/** The pids of the sandbox whose init this is, its own among them, as the host has them. */
async function sandboxPids(init: number): Promise<number[]> {
  const children = await readFile(`/proc/${init}/task/${init}/children`, 'utf8').catch(() => '');
  const below = children.split(' ').filter(Boolean).map(Number).map(sandboxPids);
  return [init, ...(await Promise.all(below)).flat()];
}

const megabytes = (value: number) => `${(value / 1024).toFixed(1)} MB`;
const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

try {
  for (const name of names)
    await kiln('create', '-r', 'debian-apache', '-u', 'apache2.service', name);
  const started = performance.now();
  await kiln('start', ...names);
  const seconds = (performance.now() - started) / 1000;
  const { stdout } = await kiln('list', '--json', ...names);
  const rows: { group: number; pss: number; shared: number; supervisor: number }[] = [];
  for (const { status } of JSON.parse(stdout)) {
    const pids = await sandboxPids(status.initPid);
    rows.push({
      group: status.usage.memoryBytes / 1024,
      pss: await kilobytes(pids, 'smaps_rollup', 'Pss'),
      shared: await kilobytes(pids, 'smaps_rollup', 'Shared_Clean'),
      supervisor: await kilobytes([status.supervisorPid], 'smaps_rollup', 'Pss_Anon'),
    });
  }
  const column = (key: keyof (typeof rows)[number]) => megabytes(mean(rows.map((row) => row[key])));
  process.stdout.write(`${rows.length} services up in ${seconds.toFixed(1)} s; for each, on average:
  cgroup of the sandbox            ${column('group')}
  Pss of its processes         ${column('pss')}
  mapped files shared          ${column('shared')} (counted once for all in the page cache)
  its supervisor, anonymous    ${column('supervisor')}
`);
} catch (error) {
  if (!cancelSignal.aborted) throw error;
} finally {
  for (const name of names) {
    await atEnd('stop', name);
    await atEnd('delete', '--volumes', name);
  }
}
