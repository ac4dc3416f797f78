import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
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

test.serial('one service without logrotate, or with another mistake, stops no other', async (t) => {
  const tools = join(state.paths.root, 'tools');
  await mkdir(tools);
  await writeFile(join(tools, 'logrotate'), '#!/bin/sh\necho rotated >> /var/rotated\n');
  await chmod(join(tools, 'logrotate'), 0o755);
  const options = ['-m', `${tools}:/opt:ro`, '--env', 'PATH=/bin:/opt'];
  await create('rotating', options, 'sleep', '1000000');
  await ok('start', 'rotating');
  const rotations = () => ok('execute', 'rotating', '--', 'cat', '/var/rotated');
  // What cron and the host's timer call: `idle`, whose image has no logrotate, comes first.
  const all = await service('logrotate');
  t.is(all.exitCode, 0, String(all.stderr));
  t.regex(String(all.stderr), /the image of idle has no logrotate/);
  t.is(await rotations(), 'rotated');
  const quiet = await service('logrotate', '--quiet');
  t.is(`${quiet.exitCode}${quiet.stdout}${quiet.stderr}`, '0');
  const named = await service('logrotate', 'idle', 'rotating');
  t.is(named.exitCode, 125);
  t.is(await rotations(), 'rotated\nrotated\nrotated');
  const upgraded = await service('upgrade', 'nosuch', 'rotating', '--to', IMAGE);
  t.is(upgraded.exitCode, 125);
  t.regex(String(upgraded.stderr), /no service nosuch/);
  t.regex(String(upgraded.stdout), /rotating is current/);
});
