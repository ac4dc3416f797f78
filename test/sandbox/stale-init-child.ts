/**
 * In a pid namespace of its own: what passes for an init ends, and another process gets its number. Prints whether
 * the root directory was opened before, and what opening it says then.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { KilnError } from '../../src/errors.ts';
import { closeDescriptor } from '../../src/host/calls/descriptor.ts';
import { isDead } from '../../src/host/process/process.ts';
import { connectUnixSocket } from '../../src/host/sockets/unix-socket.ts';
import { Channel } from '../../src/sandbox/command/channel.ts';
import { endingListener } from '../support/ending-listener.ts';

const [, , path = ''] = process.argv;
const kill = await endingListener(path);
const channel = new Channel(connectUnixSocket(path));
closeDescriptor(channel.openRoot());
kill();
while (!isDead(channel.initPid)) await new Promise(setImmediate);
await new Promise((resolve) => setTimeout(resolve, 100));
for (let tries = 0; tries < 100; tries++) {
  writeFileSync('/proc/sys/kernel/ns_last_pid', String(channel.initPid - 1));
  const other = spawn('sleep', ['100'], { stdio: 'ignore' });
  if (other.pid === channel.initPid) {
    try {
      closeDescriptor(channel.openRoot());
      console.log('opened');
    } catch (error) {
      console.log(error instanceof KilnError ? error.code : error);
    }
    tries = 100;
  }
  other.kill('SIGKILL');
  await once(other, 'exit');
}
