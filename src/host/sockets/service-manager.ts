/**
 * What systemd is told of the unit that this process is in: sd_notify(3). Not by the program systemd-notify, because
 * SELinux's policies let that one speak for few services.
 */
import { closeDescriptor, closing, createPipe } from '../calls/descriptor.ts';
import { addon, checked } from '../calls/system-call.ts';
import { ownEnvironment } from '../process/own-process.ts';
import { connectUnixSocket, SOCK_DGRAM } from './unix-socket.ts';
import { MSG_NOSIGNAL, READABLE, Watch } from './watch.ts';

/** Milliseconds that systemd-notify waits, too. */
const BARRIER = 5000;

const ROOT = 0;

/**
 * Returns when systemd has acted on it, or does not do so; at once where it does not ask for it (NOTIFY_SOCKET).
 * @param state such as `READY=1`
 */
export async function notifyManager(
  state: string,
  path = ownEnvironment.NOTIFY_SOCKET,
): Promise<void> {
  if (path === undefined) return;
  using socket = closing(connectUnixSocket(path, SOCK_DGRAM));
  send(socket.fd, state, []);
  await barrier(socket.fd);
}

function send(socket: number, text: string, fds: readonly number[]): void {
  checked('sendmsg', addon().sendMessage(socket, Buffer.from(text), fds, MSG_NOSIGNAL));
}

/** systemd closes the descriptor that comes with it when it has read all that came before. */
async function barrier(socket: number): Promise<void> {
  const { read, write } = createPipe(ROOT);
  try {
    send(socket, 'BARRIER=1', [write]);
  } finally {
    closeDescriptor(write);
  }
  await new Promise<void>((resolve) => {
    const end = () => {
      clearTimeout(timer);
      watch.stop();
      resolve();
    };
    const timer = setTimeout(end, BARRIER);
    const watch = new Watch(read, end);
    watch.events = READABLE;
  });
  closeDescriptor(read);
}
