/** Two daemons on one machine, the far one, its sshd and its loopback in a network namespace of their own. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { busyboxState, KILN } from '../support/busybox-state.ts';
import { daemonPid } from '../support/daemon.ts';
import { sshServer } from '../support/ssh-server.ts';

test('a command runs in the daemon of the other namespace, and the own one has no part', async (t) => {
  await using far = await busyboxState();
  await using near = await busyboxState();
  const holder = spawn('unshare', ['--net', 'sh', '-c', 'ip link set lo up && echo up && cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  try {
    await once(holder.stdout, 'data');
    const path = `${dirname(KILN)}:${process.env.PATH}`;
    const farEnv = { KILN_STATE: far.paths.root, KILN_NODE: process.execPath, PATH: path };
    const within = ['nsenter', `--net=/proc/${holder.pid}/ns/net`];
    await using server = await sshServer(join(far.beside, 'ssh'), farEnv, 'root', within);
    const env = {
      ...{ PATH: `${server.bin}:${path}`, HOME: process.env.HOME ?? '/root' },
      ...{ KILN_STATE: near.paths.root, KILN_NODE: process.execPath, KILN_PARKED: '0' },
    };
    const cwd = join(near.beside, 'work');
    mkdirSync(cwd);
    writeFileSync(join(cwd, 'in'), 'in\n');
    const kiln = async (...args: string[]) =>
      await execa(KILN, args, { env, cwd, extendEnv: false, stdin: 'ignore' });
    await kiln('ps');
    const argv = ['sh', '-c', 'cat /tmp/in; cp /tmp/in /tmp/out'];
    const options = ['--copy-in', 'in:/tmp/in', '--artifact', '/tmp/out', '--resultdir', 'out'];
    const there = ['--host', server.url, 'run', '-r', 'busybox', ...options, '--', ...argv];
    t.is(String((await kiln(...there)).stdout), 'in');
    t.is(readFileSync(join(cwd, 'out/out'), 'utf8'), 'in\n');
    const pids = [far, near].map(({ paths }) => daemonPid(paths.root) ?? 0);
    const [farNet, nearNet] = pids.map((pid) => readlinkSync(`/proc/${pid}/ns/net`));
    t.is(farNet, readlinkSync(`/proc/${holder.pid}/ns/net`));
    t.not(farNet, nearNet);
  } finally {
    holder.kill('SIGKILL');
  }
});
