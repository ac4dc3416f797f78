import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { statfsSync, statSync } from 'node:fs';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test from 'ava';
import { ownPath } from '../../src/host/files/held.ts';
import type { RunRequest } from '../../src/jobs/run/request.ts';
import { usualValues } from '../../src/options/row.ts';
import { SANDBOX } from '../../src/options/sandbox.ts';
import { busyboxState, IMAGE } from '../support/busybox-state.ts';
import { openKiln } from '../support/kiln.ts';

test('a sandbox runs any number of commands, like child processes, and ends with its scope', async (t) => {
  await using state = await busyboxState();
  await using kiln = openKiln({ env: state.env });
  t.deepEqual(
    (await kiln.images()).map(({ manifest }) => manifest.id),
    [IMAGE],
  );
  {
    await using sandbox = await kiln.open({ image: IMAGE });
    const first = await sandbox.spawn('sh', ['-c', 'cat > /tmp/f; echo $X; exit 3'], {
      env: { X: 'ex' },
    });
    first.stdin.end('from stdin');
    const [out] = await Promise.all([text(first.stdout), once(first, 'close')]);
    t.is(out, 'ex\n');
    t.is(first.exitCode, 3);
    const second = await sandbox.spawn('cat', ['f'], { cwd: '/tmp' });
    const [content] = await Promise.all([text(second.stdout), once(second, 'close')]);
    t.is(content, 'from stdin');
    t.deepEqual(second.facts.capabilities.bounding, []);
    const sleeper = await sandbox.spawn('sleep', ['100']);
    t.true(sleeper.kill('SIGTERM'));
    t.deepEqual(await once(sleeper, 'exit'), [null, 'SIGTERM']);
    const aborted = await sandbox.spawn('sh', ['-c', 'kill -ABRT $$']);
    t.deepEqual(await once(aborted, 'exit'), [null, 'SIGABRT']);
    await t.throwsAsync(sandbox.spawn('nothing-here'), { code: 'E_COMMAND_NOT_FOUND' });
    const parallel = await Promise.all(
      Array.from({ length: 8 }, async (_, i) => {
        const command = await sandbox.spawn('echo', [String(i)]);
        return (await text(command.stdout)).trim();
      }),
    );
    t.deepEqual(parallel, ['0', '1', '2', '3', '4', '5', '6', '7']);
  }
  t.deepEqual(await readdir(state.paths.sandboxes), []);
});

test('processes that a command left running cannot write to a bind after its result', async (t) => {
  await using state = await busyboxState();
  await using kiln = openKiln({ env: state.env });
  const folder = await mkdtemp(join(tmpdir(), 'kiln-left-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const request: RunRequest = {
    ...usualValues(SANDBOX),
    image: IMAGE,
    argv: [
      'sh',
      '-c',
      '(while :; do date >>/shared/x; done) >/dev/null 2>&1 & until test -s /shared/x; do sleep 0.1; done',
    ],
    binds: [{ source: folder, place: ownPath(folder), target: '/shared', readonly: false }],
    caller: { uid: 0, gid: 0 },
  };
  const report = await kiln.run(request, {
    started: (command) => {
      command.stdin.end();
      command.stdout.resume();
      command.stderr.resume();
    },
    warning: () => undefined,
  });
  // Without a turn in which the sandbox could be taken apart.
  execFileSync('sleep', ['0.3']);
  const { size } = statSync(join(folder, 'x'));
  execFileSync('sleep', ['0.3']);
  t.is(statSync(join(folder, 'x')).size, size);
  t.true(size > 0);
  await report.remove();
});

test('a link in place of /tmp does not make kiln look at a disk of the host', async (t) => {
  await using state = await busyboxState();
  await using kiln = openKiln({ env: state.env });
  const full = await mkdtemp(join(tmpdir(), 'kiln-full-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'none', full]);
  t.teardown(async () => {
    execFileSync('umount', [full]);
    await rm(full, { recursive: true });
  });
  await writeFile(join(full, 'x'), Buffer.alloc(1 << 20)).catch(() => undefined);
  t.is(statfsSync(full).bavail, 0);
  await using sandbox = await kiln.open({ image: IMAGE, user: 'root', privateTmp: false });
  const script = `rm -rf /tmp; ln -s ${full} /tmp`;
  const swap = await sandbox.spawn('sh', ['-ec', script]);
  t.deepEqual(await once(swap, 'exit'), [0, null]);
  const end = { exitCode: 1, signal: null, timeLimit: null };
  t.is(await sandbox.planned.limitHit(end, sandbox.planned.ground.usage()), null);
});
