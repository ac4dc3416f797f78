/** Machines by the library, by systemd's client of the API, and by `kiln mcp`. Emulated ones take long to start. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import test, { type ExecutionContext } from 'ava';
import { connect } from '../../src/api/connect.ts';
import { program } from '../support/api.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { long } from '../support/long.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const GROUND = { isolation: 'vm', allowMissing: ['kvm'] };

/** What a tool of `kiln mcp` answers. */
async function called(words: readonly string[], name: string, given: Record<string, unknown>) {
  const client = new Client({ name: 'test', version: '1' });
  const args = ['mcp', '-r', IMAGE, '--resultdir', state.beside, ...words];
  const env = { PATH: process.env.PATH ?? '', ...state.env } as Record<string, string>;
  await client.connect(new StdioClientTransport({ command: KILN, args, env, cwd: state.beside }));
  try {
    const patience = { timeout: 300_000 * PATIENCE };
    const { content } = await client.callTool({ name, arguments: given }, patience);
    return (content as { text?: string }[])[0]?.text ?? '';
  } finally {
    await client.close();
  }
}

const release = async () => (await readFile('/proc/sys/kernel/osrelease', 'utf8')).trim();

test('the library asks for a machine', async (t) => {
  await using kiln = await connect({ state: state.paths.root });
  // What no machine has tells that one was asked for, and starts none.
  const sandbox = { ...GROUND, label: 'none' };
  const refused = { code: 'E_MACHINE', message: /a machine has no --label/ };
  await t.throwsAsync(kiln.open({ image: IMAGE, surroundings: sandbox }), refused);
  const argv = ['true'];
  await t.throwsAsync(kiln.run({ image: IMAGE, argv, surroundings: sandbox }), refused);
  const wrong = { ...GROUND, isolation: 'box' };
  await t.throwsAsync(kiln.open({ image: IMAGE, surroundings: wrong }), { code: 'E_ARGUMENT' });
});

async function isMachines(t: ExecutionContext, said: string) {
  t.regex(said, /\d+\.\d+\.\d+/);
  t.false(said.includes(await release()), said);
}

long('commands of the library, of varlinkctl and of kiln mcp run in machines', async (t) => {
  t.timeout(900_000 * PATIENCE);
  await using kiln = await connect({ state: state.paths.root });
  await using sandbox = await kiln.open({ image: IMAGE, surroundings: GROUND });
  const { stdout } = await sandbox.exec('uname -r');
  await isMachines(t, String(stdout));
  const parameters = { image: IMAGE, argv: ['uname', '-r'], surroundings: GROUND };
  const socket = join(state.paths.root, 'io.kiln');
  const asked = ['call', socket, 'io.kiln.Run', JSON.stringify(parameters)];
  const { stdout: said, stderr } = await program('varlinkctl', ['--no-pager', '-j', ...asked]);
  t.is(stderr, '');
  const reply = JSON.parse(said);
  await isMachines(t, Buffer.from(reply.stdout, 'base64').toString());
  t.like(reply.result.report.policy, { isolation: 'vm', machine: { kvm: false } });
  const words = ['--isolation', 'vm', '--allow-missing', 'kvm'];
  await isMachines(t, await called(words, 'run_command', { command: 'uname -r' }));
});
