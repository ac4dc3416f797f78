/** What a service's supervisor and kilnd tell systemd, as another sd_notify(3) reads it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { notifyManager } from '../../src/host/sockets/service-manager.ts';
import { awaitedLater, settled } from '../../src/promise.ts';
import { eventually } from '../support/eventually.ts';

/** Prints each message with its sender; keeps the descriptor of a barrier until it is told to go on. */
const MANAGER = `
import array, os, socket, struct, sys
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
manager.bind(sys.argv[1])
print('ready', flush=True)
for _ in range(2):
    data, control, _, _ = manager.recvmsg(4096, 256)
    fds, sender = array.array('i'), None
    for level, kind, value in control:
        if kind == socket.SCM_RIGHTS: fds.frombytes(value[:len(value) - len(value) % 4])
        if kind == socket.SCM_CREDENTIALS: sender = struct.unpack('3i', value)[0]
    print(data.decode(), sender, len(fds), flush=True)
sys.stdin.readline()
for fd in fds: os.close(fd)
`;

test('the process itself notifies systemd, and goes on when systemd has acted', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'kiln-notify-'));
  const socket = join(folder, 'notify');
  const manager = spawn('python3', ['-c', MANAGER, socket], { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    const ended = awaitedLater(once(manager, 'close'));
    let said = '';
    manager.stdout.setEncoding('utf8').on('data', (piece: string) => {
      said += piece;
    });
    await eventually(async () => said === 'ready\n');
    const telling = awaitedLater(notifyManager('MAINPID=42', socket));
    const isTold = settled(telling);
    await new Promise((resolve) => setTimeout(resolve, 500));
    t.false(isTold());
    manager.stdin.end('\n');
    await telling;
    await ended;
    t.is(said, `ready\nMAINPID=42 ${process.pid} 0\nBARRIER=1 ${process.pid} 1\n`);
  } finally {
    manager.kill();
    await rm(folder, { recursive: true });
  }
});

test('a missing manager is an error, unless none was asked for', async (t) => {
  await t.notThrowsAsync(notifyManager('READY=1', undefined));
  await t.throwsAsync(notifyManager('READY=1', join(tmpdir(), 'kiln-no-manager')), {
    message: /connect .*kiln-no-manager: ENOENT/,
  });
});
