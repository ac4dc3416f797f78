import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { findKeptPromises } from '../../scripts/check/promises.ts';

const top = join(import.meta.dirname, '../..');

const FAULTY = `
import { awaitedLater } from './promise.ts';
declare function work(): Promise<number>;
declare function other(): Promise<void>;
export async function late() {
  const early = work();
  await other();
  return await early;
}
export async function unless(really: boolean) {
  const maybe = really ? work() : undefined;
  await other();
  await maybe;
}
export class Holder {
  #held: Promise<number> | undefined;
  hold() { this.#held ??= work(); return this.#held; }
}
export function ignore() { void work(); }
export const resolvers = () => Promise.withResolvers<void>();
export async function fine() {
  const next = work();
  await next;
  const kept = awaitedLater(work());
  await other();
  const never = new Promise<void>((resolve) => setTimeout(resolve, 1));
  await other();
  await never;
  return await kept;
}
`;

test('the check finds every promise that is kept without a listener, and no other', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'kiln-promises-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const source = join(folder, 'src');
  await mkdir(source);
  await symlink(join(top, 'node_modules'), join(folder, 'node_modules'));
  const options = { target: 'ES2024', lib: ['ES2024', 'ESNext.Disposable'], module: 'NodeNext' };
  await writeFile(
    join(folder, 'tsconfig.json'),
    JSON.stringify({
      compilerOptions: { ...options, strict: true, noEmit: true, allowImportingTsExtensions: true },
      include: ['src'],
    }),
  );
  await writeFile(
    join(source, 'promise.ts'),
    'export function awaitedLater<Kept>(promise: Promise<Kept>): Promise<Kept> { return promise; }',
  );
  await writeFile(join(source, 'faulty.ts'), FAULTY);
  const found = findKeptPromises(join(folder, 'tsconfig.json'), source);
  t.deepEqual(
    found.map((line) => line.split(':')[1]),
    ['6', '11', '17', '19', '20'],
    found.join('\n'),
  );
});

test('a stray error ends a process with status 125, and is printed', (t) => {
  const net = join(top, 'src/stray-errors.ts');
  const run = (code: string, stdio: 'pipe' | 'full' = 'pipe') =>
    spawnSync(
      'sh',
      [
        '-c',
        `exec "$0" --input-type=module -e "$1" ${stdio === 'full' ? '2>/dev/full' : ''}`,
        process.execPath,
        `import { describeStrayErrors } from ${JSON.stringify(net)};\ndescribeStrayErrors((error) => 'stray: ' + error.message + '\\n');\n${code}`,
      ],
      { encoding: 'utf8', timeout: 30_000 },
    );
  for (const code of [
    "Promise.reject(new Error('lost')); setInterval(() => {}, 1000);",
    "setTimeout(() => { throw new Error('lost'); }); setInterval(() => {}, 1000);",
  ]) {
    const { status, stderr } = run(code);
    t.is(status, 125, code);
    t.is(stderr, 'stray: lost\n');
  }
  // It may have nobody to tell.
  t.is(run("Promise.reject(new Error('lost')); setInterval(() => {}, 1000);", 'full').status, 125);
  const warned = run(
    "process.stderr.write('warning'); setTimeout(() => process.exit(7), 200);",
    'full',
  );
  t.is(warned.status, 7, 'a warning that cannot be written ends nothing');
});
