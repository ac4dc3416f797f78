/** A real sshd on the loopback, with keys of its own, and an `ssh` that knows it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { readText, unlessErrno } from '../../src/host/calls/libc.ts';
import { PATIENCE } from './busybox-state.ts';
import { freePort } from './free-port.ts';

export interface SshServer extends AsyncDisposable {
  /** Its address, as `kiln --host` takes it. */
  readonly url: string;
  /** A folder whose `ssh` knows the server and the key. */
  readonly bin: string;
  /** What ssh knows of host keys. */
  readonly knownHosts: string;
  readonly hostKey: string;
  /** Kills the processes that serve one connection each. */
  killSessions(): void;
}

/**
 * Starts it; `env` is what commands there have in their environment, beside what a login gives to `user`.
 * @param within words that run a program where server and `ssh` are to be, such as a network namespace
 */
export async function sshServer(
  folder: string,
  env: Readonly<Record<string, string>>,
  user = 'root',
  within: readonly string[] = [],
): Promise<SshServer> {
  mkdirSync(join(folder, 'bin'), { recursive: true });
  const key = async (name: string) => {
    await execa('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(folder, name)]);
    return readFileSync(join(folder, `${name}.pub`), 'utf8').trim();
  };
  const [hostKey, own] = [await key('host'), await key('own')];
  const port = await freePort();
  // sshd writes it once it listens.
  const pidFile = join(folder, 'pid');
  const [authorized, knownHosts, config] = ['authorized', 'known', 'config'].map((name) =>
    join(folder, name),
  ) as [string, string, string];
  writeFileSync(authorized, `${own}\n`);
  // sshd reads it as the user.
  chmodSync(folder, 0o755);
  chmodSync(authorized, 0o644);
  writeFileSync(knownHosts, `[127.0.0.1]:${port} ${hostKey.split(' ').slice(0, 2).join(' ')}\n`);
  writeFileSync(
    config,
    ['Host *', `IdentityFile ${join(folder, 'own')}`, 'IdentitiesOnly yes', 'BatchMode yes']
      .concat([`UserKnownHostsFile ${knownHosts}`, 'GlobalKnownHostsFile /dev/null'])
      .concat(['StrictHostKeyChecking yes', ''])
      .join('\n'),
  );
  const ssh = join(folder, 'bin/ssh');
  const words = [...within, '/usr/bin/ssh', '-F', config].join(' ');
  writeFileSync(ssh, `#!/bin/sh\nexec ${words} "$@"\n`);
  chmodSync(ssh, 0o755);
  const setEnv = Object.entries(env).map(([name, value]) => `"${name}=${value}"`);
  const settings = join(folder, 'sshd_config');
  writeFileSync(
    settings,
    [`Port ${port}`, 'ListenAddress 127.0.0.1', `HostKey ${join(folder, 'host')}`]
      .concat([`AuthorizedKeysFile ${authorized}`, 'StrictModes no', 'UsePAM no'])
      .concat(['PasswordAuthentication no', 'PermitRootLogin yes', `PidFile ${pidFile}`])
      .concat([`SetEnv ${setEnv.join(' ')}`, ''])
      .join('\n'),
  );
  mkdirSync('/run/sshd', { recursive: true });
  const [program = '', ...args] = [...within, '/usr/sbin/sshd', '-D', '-e', '-f', settings];
  const server: ChildProcess = spawn(program, args, { stdio: ['ignore', 'ignore', 'ignore'] });
  const isThere = async () => (within.length === 0 ? await answers(port) : existsSync(pidFile));
  for (let tries = 0; !(await isThere()); tries++) {
    if (tries > 100 * PATIENCE || server.exitCode !== null) throw new Error('sshd does not listen');
    await sleep(100);
  }
  return {
    url: `ssh://${user}@127.0.0.1:${port}`,
    bin: join(folder, 'bin'),
    knownHosts,
    hostKey,
    killSessions: () => {
      // The end of one may be the end of others.
      for (const pid of sessionsBelow(server.pid ?? 0)) {
        unlessErrno(['ESRCH'], () => process.kill(pid, 'SIGKILL'));
      }
    },
    [Symbol.asyncDispose]: async () => {
      if (server.exitCode !== null) return;
      server.kill('SIGKILL');
      await once(server, 'exit');
    },
  };
}

/** sshd's own processes below one: a monitor, and whoever has the connection. */
function sessionsBelow(pid: number): number[] {
  const children = (readText(`/proc/${pid}/task/${pid}/children`) ?? '').split(' ');
  return children
    .filter(Boolean)
    .map(Number)
    .filter((child) => readText(`/proc/${child}/comm`)?.startsWith('sshd') === true)
    .flatMap((child) => [child, ...sessionsBelow(child)]);
}

async function answers(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
