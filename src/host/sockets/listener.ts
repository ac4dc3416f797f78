/** Listening sockets: made under another name and renamed, so that nobody finds one that does not listen. */
import { chmodSync, chownSync, constants, openSync, renameSync, rmSync, statSync } from 'node:fs';
import { constants as os } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { closeDescriptor, closing } from '../calls/descriptor.ts';
import { checked, tryCall } from '../calls/system-call.ts';
import { SOCK_CLOEXEC, unixAddress, unixSocket } from './unix-socket.ts';
import { READABLE, Watch } from './watch.ts';

const SOCK_NONBLOCK = 0o4000;
/** Beyond so many waiting connections, a connect that does not wait (Node's) fails. */
const BACKLOG = 4096;

const A_TURN = 16;

interface Name {
  readonly path: string;
  readonly inode: bigint;
}

export class Listener implements Disposable {
  readonly #fd: number;
  readonly #watch: Watch;
  readonly #name: Name | undefined;

  private constructor(fd: number, connected: (fd: number) => void, name?: Name) {
    this.#fd = fd;
    this.#name = name;
    this.#watch = new Watch(fd, () => this.#accept(connected));
    this.#watch.events = READABLE;
  }

  /**
   * In place of any socket at `path`. Only its owner and members of `group` can connect. @param connected
   * owns the descriptor that it is given @throws SyscallError, Node's own errors of the file system
   */
  static open(path: string, connected: (fd: number) => void, group?: number): Listener {
    const fd = unixSocket();
    const fresh = `.${basename(path)}.${process.pid}`;
    // Through a descriptor, because a socket's path may have only 107 bytes.
    using folder = closing(openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY));
    const temporary = `/proc/self/fd/${folder.fd}/${fresh}`;
    try {
      rmSync(temporary, { force: true });
      const address = unixAddress(temporary);
      checked('bind', tryCall('bind', fd, address, address.length), path);
      chmodSync(temporary, 0o600);
      if (group !== undefined) {
        chownSync(temporary, 0, group);
        chmodSync(temporary, 0o660);
      }
      checked('listen', tryCall('listen', fd, BACKLOG), path);
      const { ino: inode } = statSync(temporary, { bigint: true });
      renameSync(temporary, `/proc/self/fd/${folder.fd}/${basename(path)}`);
      return new Listener(fd, connected, { path, inode });
    } catch (error) {
      closeDescriptor(fd);
      rmSync(join(dirname(path), fresh), { force: true });
      throw error;
    }
  }

  static adopt(fd: number, connected: (fd: number) => void): Listener {
    return new Listener(fd, connected);
  }

  get isNamed(): boolean {
    if (this.#name === undefined) return true;
    const { path, inode } = this.#name;
    return statSync(path, { bigint: true, throwIfNoEntry: false })?.ino === inode;
  }

  #accept(connected: (fd: number) => void): void {
    for (let count = 0; count < A_TURN; count++) {
      const flags = SOCK_CLOEXEC | SOCK_NONBLOCK;
      const connection = tryCall('accept4', this.#fd, null, null, flags);
      if (connection >= 0) connected(connection);
      else if (connection !== -os.errno.ECONNABORTED && connection !== -os.errno.EINTR) return;
    }
  }

  [Symbol.dispose](): void {
    this.#watch.stop();
    if (this.#name !== undefined && this.isNamed) rmSync(this.#name.path, { force: true });
    closeDescriptor(this.#fd);
  }
}
