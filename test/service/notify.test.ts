/** Programs that say READY=1 (sd_notify) sooner than the supervisor hears that they were started. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { imageDirectory } from '../../src/image/store/manifest.ts';
import type { ServiceStatus } from '../../src/service/status.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { processesCalled } from '../support/processes.ts';

const UNIT = `[Service]
Type=notify
ExecStartPre=/bin/sh -c 'until test -e /run/go; do sleep 0.1; done'
ExecStart=/bin/at-once ${process.pid}
TimeoutStartSec=${40 * PATIENCE}
`;

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
  const tree = join(imageDirectory(state.paths, IMAGE), 'tree');
  const units = join(tree, 'usr/lib/systemd/system');
  await mkdir(units, { recursive: true });
  await writeFile(join(units, 'quick.service'), UNIT);
  const source = join(import.meta.dirname, 'notify-at-once.c');
  const options = ['-std=gnu17', '-O1', '-Wall', '-Werror', '-static'];
  await execa('cc', [...options, '-o', join(tree, 'bin/at-once'), source]);
});
test.after.always(async () => {
  await state.kiln(['service', 'stop', 'quick']);
  await state[Symbol.asyncDispose]();
});

async function status(): Promise<ServiceStatus | undefined> {
  const { stdout } = await state.kiln(['service', 'list', '--json', 'quick']);
  return (JSON.parse(String(stdout)) as { status?: ServiceStatus }[])[0]?.status;
}

test.serial('kiln does not wait for a program that is ready at once', async (t) => {
  const made = await state.kiln(['service', 'create', '-r', IMAGE, '-u', 'quick', 'quick']);
  t.is(made.exitCode, 0, String(made.stderr));
  const start = state.kiln(['service', 'start', 'quick'], { timeout: 100_000 * PATIENCE });
  const { supervisorPid, initPid } = await eventually(async () => {
    const now = await status();
    return now?.units[0]?.state === 'activating' && now;
  });
  // What the supervisor reads, it reads late: both messages of the init at once.
  const slow = ['-e', 'trace=read,recvmsg', '-e', 'inject=read,recvmsg:delay_enter=400000'];
  const strace = spawn('strace', [...slow, '-o', '/dev/null', '-p', String(supervisorPid)]);
  await once(strace.stderr, 'data');
  const enter = ['-t', String(initPid), '-U', '-m', '-S', '0', '-G', '0'];
  await execa('nsenter', [...enter, '/bin/touch', '/run/go']);
  await eventually(async () => processesCalled('/bin/at-once', String(process.pid)).length > 0);
  await sleep(1000);
  strace.kill();
  const { exitCode, stderr } = await start;
  t.is(exitCode, 0, String(stderr));
});
