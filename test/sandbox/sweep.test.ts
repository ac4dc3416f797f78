import { existsSync, mkdirSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { execa } from 'execa';
import { acquireLock } from '../../src/host/files/flock.ts';
import { newDirectory } from '../../src/sandbox/domain/start-domain.ts';
import { sweepSandboxes } from '../../src/sandbox/domain/sweep.ts';
import { busyboxState } from '../support/busybox-state.ts';
import { openKiln } from '../support/kiln.ts';

const MAKER = fileURLToPath(new URL('dying-maker.ts', import.meta.url));

test('a sandbox whose maker died before writing the record goes at once, one being made stays', async (t) => {
  await using state = await busyboxState();
  await using kiln = openKiln({ env: state.env });
  const { paths, engine } = kiln;
  const died = await execa('node', [MAKER], { env: state.env, reject: false });
  t.is(died.signal, 'SIGKILL', died.stderr);
  const { lock, known } = JSON.parse(died.stdout);
  t.is(known, undefined, 'it was killed too late');
  t.not(lock, '', 'its folder was seen before its lock was held');
  const id = basename(dirname(lock));
  const begun = join(newDirectory(paths), 'begun');
  mkdirSync(begun);
  {
    await using _ = await acquireLock(lock);
    t.deepEqual(await sweepSandboxes(paths, engine.connect), []);
    t.true(existsSync(lock));
  }
  t.deepEqual(await sweepSandboxes(paths, engine.connect), [id]);
  t.deepEqual(await readdir(paths.sandboxes), []);
  t.deepEqual(await readdir(newDirectory(paths)), ['begun']);
});
