/** Inits of sandboxes that run are told what they must not be told, and end. */
import { join } from 'node:path';
import test from 'ava';
import type { KilnError } from '../../src/errors.ts';
import { type Message, REQUESTS } from '../../src/sandbox/wire/table.ts';
import { BareSandbox } from '../support/bare-sandbox.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { damagedMessages, wholeMessage } from '../support/wire-damage.ts';

let state: BusyboxState;

test.before(async (t) => {
  t.timeout(120_000 * PATIENCE);
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

for (const [request, message] of Object.entries<Message>(REQUESTS)) {
  test.serial(`a damaged ${request} ends the sandbox`, async (t) => {
    // Here none have descriptors.
    const damages = [...damagedMessages(message)].filter(({ name }) => !/descriptors$/.test(name));
    const damage = damages[Math.floor(Math.random() * damages.length)];
    await using sandbox = await BareSandbox.open(state, join(state.paths.images, IMAGE, 'tree'));
    const ended = await sandbox.endWith(damage?.bytes ?? Buffer.alloc(8));
    t.is((ended as KilnError).code, 'E_SANDBOX_GONE', damage?.name);
  });
}

test.serial('a file system without a bound ends the sandbox', async (t) => {
  const damages = [...damagedMessages(REQUESTS.setup)];
  const unbounded = damages.filter(({ name }) => /tmpfs: bytes: \d+ bytes$/.test(name));
  t.is(unbounded.length, 6);
  for (const { name, bytes } of unbounded) {
    await using sandbox = await BareSandbox.open(state, join(state.paths.images, IMAGE, 'tree'));
    t.is(((await sandbox.endWith(bytes)) as KilnError).code, 'E_SANDBOX_GONE', name);
  }
});

for (const request of ['prepare', 'setup'] as const) {
  test.serial(`a ${request} that comes too late ends the sandbox`, async (t) => {
    await using sandbox = await BareSandbox.open(state, join(state.paths.images, IMAGE, 'tree'));
    const ended = await sandbox.endWith(wholeMessage(REQUESTS[request]).bytes);
    t.is((ended as KilnError).code, 'E_SANDBOX_GONE');
  });
}

test.serial('a valid request does not end the sandbox', async (t) => {
  await using sandbox = await BareSandbox.open(state, join(state.paths.images, IMAGE, 'tree'));
  const ended = sandbox.endWith(wholeMessage(REQUESTS.keep).bytes);
  const lives = new Promise((resolve) => setTimeout(resolve, 500, 'it lives'));
  t.is(await Promise.race([ended, lives]), 'it lives');
});
