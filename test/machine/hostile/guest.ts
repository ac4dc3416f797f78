/** A relay and virtiofsd as a machine has them, and the test in the place of qemu and of all that is in the guest. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, mkdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { closeDescriptor } from '../../../src/host/calls/descriptor.ts';
import {
  cloneMount,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  setMountAttributes,
} from '../../../src/host/files/mount.ts';
import { createUserNamespace } from '../../../src/host/process/user-namespace.ts';
import {
  connectUnixSocket,
  sendPacket,
  unixSocketPair,
} from '../../../src/host/sockets/unix-socket.ts';
import { machinePrograms } from '../../../src/sandbox/domain/machine/programs.ts';

import { FRAMES, PORT } from '../../../src/sandbox/wire/port.ts';
import { REQUESTS } from '../../../src/sandbox/wire/table.ts';
import { PATIENCE } from '../../support/busybox-state.ts';
import { frame, words } from '../../support/port-harness.ts';

/** Ids that no sandbox has. */
export const BASE = 1_999_900_000;
const COUNT = 65_536;

const PASS_ON = `const port = require('net').connect(process.argv[1]);
process.stdin.pipe(port).pipe(process.stdout);`;

const RELAY = join(import.meta.dirname, '../../../dist/kiln-relay');

export interface Shared {
  readonly path: string;
  readonly readonly: boolean;
}

export class HostileGuest implements AsyncDisposable {
  /** The relay's folder. */
  readonly folder: string;
  readonly port: Writable;
  /** In the place of qemu: the relay ends it at last. */
  readonly qemu: ChildProcess;
  readonly console: Socket;
  readonly #relay: ReturnType<typeof spawn>;
  readonly #ended: Promise<unknown>;
  #said = '';
  #received = Buffer.alloc(0);
  #kiln: number | undefined;

  private constructor(folder: string, relay: ReturnType<typeof spawn>) {
    this.folder = folder;
    this.#relay = relay;
    this.#ended = once(relay, 'exit');
    relay.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#said += text;
    });
    const stdio = ['pipe', 'pipe', 'inherit'] as const;
    const qemu = spawn(process.execPath, ['-e', PASS_ON, this.file('port.sock')], {
      stdio: [...stdio],
    });
    this.qemu = qemu;
    this.port = qemu.stdin;
    this.console = createConnection(this.file('console.sock'));
    for (const socket of [this.port, this.console]) socket.on('error', () => undefined);
    qemu.stdout.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
    });
  }

  /** @param owner whose files are the sandbox root's in what is shared */
  static async start(shared: readonly Shared[] = [], owner = 0): Promise<HostileGuest> {
    const folder = await mkdtemp(join(tmpdir(), 'kiln-hostile-'));
    chmodSync(folder, 0o711);
    for (const name of ['init', 'machine']) mkdirSync(join(folder, name), { mode: 0o711 });
    chownSync(join(folder, 'init'), BASE, BASE);
    const args = [folder, BASE, COUNT, BASE + COUNT - 1, machinePrograms().virtiofsd, 'boots'].map(
      String,
    );
    const relay = spawn(RELAY, args, { cwd: '/', env: {}, stdio: ['ignore', 'pipe', 'pipe'] });
    const lines = relay.stdout as NonNullable<typeof relay.stdout>;
    let told = '';
    let said = () => '';
    lines.setEncoding('utf8').on('data', (text: string) => {
      told += text;
    });
    const isTold = async (word: string) => {
      for (let tries = 0; !told.includes(word); tries++) {
        if (tries > 500 * PATIENCE || relay.exitCode !== null)
          throw new Error(`not ${word}: ${said()}`);
        await sleep(10);
      }
    };
    await isTold('ready');
    const guest = new HostileGuest(folder, relay);
    said = () => guest.said;
    guest.send(FRAMES.hello.type, 0, words(PORT.version));
    guest.send(FRAMES.ready.type, 0);
    await isTold('open');
    if (shared.length > 0) await guest.#share(shared, owner);
    return guest;
  }

  file(name: string): string {
    return join(this.folder, 'machine', name);
  }

  /** What relay and virtiofsd have said. */
  get said(): string {
    return this.#said;
  }

  /** Frames that came from the relay. */
  get received(): {
    readonly type: number;
    readonly stream: number;
    readonly payload: Buffer;
  }[] {
    const found = [];
    for (let at = 0; at + 8 <= this.#received.length; at += 8 + this.#received.readUInt32LE(at)) {
      const [type, stream] = [
        this.#received.readUInt16LE(at + 4),
        this.#received.readUInt16LE(at + 6),
      ];
      const payload = this.#received.subarray(at + 8, at + 8 + this.#received.readUInt32LE(at));
      found.push({ type, stream, payload });
    }
    return found;
  }

  /** In the place of kiln. */
  connect(): number {
    return connectUnixSocket(join(this.folder, 'init/init.sock'));
  }

  /** The stream that the relay told of last. */
  get lastDescriptor(): number {
    return this.received.findLast(({ type }) => type === FRAMES.descriptor.type)?.stream ?? 0;
  }

  send(type: number, stream: number, payload?: Buffer): void {
    this.port.write(frame(type, stream, payload));
  }

  /** As kiln, which has an image and binds for the init. */
  async #share(shared: readonly Shared[], owner: number): Promise<void> {
    const map = [{ inside: owner, outside: BASE, count: 1 }];
    const namespace = createUserNamespace(map);
    const fds = shared.map(({ path, readonly }) => {
      const fd = cloneMount(path);
      const set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (readonly ? MOUNT_ATTR_RDONLY : 0);
      setMountAttributes(fd, { set, userNamespace: namespace });
      return fd;
    });
    await this.#bring(fds);
    closeDescriptor(namespace);
  }

  /** A socket by which the init passes descriptors: its stream, and kiln's end, of which nobody reads. */
  async carrier(): Promise<{ readonly stream: number; readonly kiln: number }> {
    const [ours, theirs] = unixSocketPair();
    await this.#bring([theirs]);
    return { stream: this.lastDescriptor, kiln: ours };
  }

  /** A message with these descriptors, which are closed. */
  async #bring(fds: readonly number[]): Promise<void> {
    this.#kiln ??= this.connect();
    const told = () => this.received.filter(({ type }) => type === FRAMES.descriptor.type).length;
    const before = told();
    sendPacket(this.#kiln, words(0, REQUESTS.setup.type), fds);
    for (const fd of fds) closeDescriptor(fd);
    for (let tries = 0; told() < before + fds.length; tries++) {
      if (tries > 500 * PATIENCE) throw new Error('the relay told of nothing');
      await sleep(10);
    }
  }

  /** The relay's two processes and virtiofsd, by what the kernel tells of them. */
  processes(): { readonly pid: number; readonly status: string }[] {
    const below = (pid: number): number[] => {
      const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
      const children = (text.match(/\d+/g) ?? []).map(Number);
      return [pid, ...children.flatMap(below)];
    };
    return below(this.#relay.pid ?? 0).map((pid) => ({
      pid,
      status: readFileSync(`/proc/${pid}/status`, 'utf8'),
    }));
  }

  get isAlive(): boolean {
    return this.#relay.exitCode === null && this.#relay.signalCode === null;
  }

  async ends(): Promise<boolean> {
    return await Promise.race([this.#ended.then(() => true), sleep(5000 * PATIENCE, false)]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#kiln !== undefined) closeDescriptor(this.#kiln);
    this.console.destroy();
    if (this.isAlive) this.#relay.kill('SIGTERM');
    await this.#ended;
    this.qemu.kill('SIGKILL');
    await rm(this.folder, { recursive: true });
  }
}
