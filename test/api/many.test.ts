/** More commands at once than libvirt starts: they wait their turn, by the API as by command lines. */
import { readdirSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { apiState, program } from '../support/api.ts';

const KILN = join(import.meta.dirname, '../../dist/kiln');

/** Of each kind. */
const MANY = 60;

/** One call on a connection of its own: its last reply. */
function call(socket: string, method: string, parameters: object): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const connection = connect(socket, () => {
      connection.write(`${JSON.stringify({ method: `io.kiln.${method}`, parameters })}\0`);
    });
    let text = '';
    connection.on('error', reject).on('data', (bytes) => {
      text += bytes.toString();
      if (!text.endsWith('\0')) return;
      connection.end();
      resolve(JSON.parse(text.slice(0, -1)));
    });
  });
}

test('many runs at once all succeed, though only a few start at a time', async (t) => {
  await using state = await apiState();
  const { socket, userEnv, paths } = state;
  const runs = [
    ...Array.from({ length: MANY }, async () => {
      const reply = await call(socket, 'Run', { image: 'busybox', argv: ['true'] });
      t.like(
        reply,
        { parameters: { result: { ended: { exitStatus: 0 } } } },
        JSON.stringify(reply),
      );
    }),
    ...Array.from({ length: MANY }, async () => {
      const ran = await program(KILN, ['run', '-r', 'busybox', '--', 'true'], { env: userEnv });
      t.is(ran.code, 0, ran.stderr);
    }),
  ];
  let isOver = false;
  const all = Promise.all(runs).finally(() => {
    isOver = true;
  });
  let most = 0;
  for (; !isOver; await sleep(20)) most = Math.max(most, begun(paths.sandboxes));
  await all;
  // What has ended is removed when nothing starts, a third of a second later at most.
  t.true(most < MANY, `${most} of ${2 * MANY} at once`);
});

function begun(folder: string): number {
  try {
    return readdirSync(folder).length;
  } catch {
    return 0;
  }
}
