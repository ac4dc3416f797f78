import test from 'ava';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
  await create('idle', [], 'sleep', '1000000');
  await ok('start', 'idle');
});

test.after.always(async () => {
  const { stdout } = await service('list', '--json');
  const names = (JSON.parse(String(stdout)) as { name: string }[]).map(({ name }) => name);
  if (names.length > 0) await service('stop', ...names);
  await state[Symbol.asyncDispose]();
});

const service = (...args: readonly string[]) => state.kiln(['service', ...args]);

async function ok(...args: readonly string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await service(...args);
  if (exitCode !== 0) throw new Error(`kiln service ${args.join(' ')}: ${stderr}`);
  return String(stdout);
}

const create = (name: string, options: readonly string[], ...command: readonly string[]) =>
  ok('create', '-r', IMAGE, ...options, name, '--', ...command);

test.serial('a command gets a terminal where kiln itself has none', async (t) => {
  const script = 'tty; stty size; exit 3';
  const { exitCode, stdout, signal } = await service(
    ...['execute', '-t', 'idle', '--', 'sh', '-c', script],
  );
  t.is(exitCode, 3, String(signal));
  t.regex(String(stdout), /^\/dev\/pts\/\d+\r?\n24 80/);
});
