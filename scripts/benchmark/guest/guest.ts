/** A guest that qemu alone starts, with the kernel and the devices of kiln's machines, and virtiofsd by itself. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createReadStream, createWriteStream, existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type BootFiles, ensureBootFiles } from '../../../src/sandbox/domain/machine/boot-files.ts';
import { whyNoKvm } from '../../../src/sandbox/domain/machine/kvm.ts';
import { type Accelerator, commandLine } from '../../../src/sandbox/domain/machine/machine-xml.ts';
import { GUEST_MEMORY, ownMemory } from '../../../src/sandbox/domain/machine/memory.ts';
import { machinePrograms } from '../../../src/sandbox/domain/machine/programs.ts';
import { PORT } from '../../../src/sandbox/wire/port.ts';
import { type Bed, top } from '../bed.ts';
import { execute } from '../measure.ts';

export interface Ground {
  readonly boot: BootFiles;
  readonly accelerator: Accelerator;
}

export async function groundOf({ kiln: { paths } }: Bed): Promise<Ground> {
  const boot = await ensureBootFiles(paths);
  const why = await whyNoKvm(paths, boot);
  return { boot, accelerator: why === undefined ? 'kvm' : 'tcg' };
}

/** The initramfs of kiln's machines, with another first program: the kernel takes the later of two files of a name. */
async function bareInitramfs(folder: string, { boot }: Ground): Promise<string> {
  const [guest, machine] = [join(top, 'src/guest'), join(top, 'src/guest/machine')];
  const include = [guest, machine, join(top, 'dist/wire')].map((path) => `-I${path}`);
  const sources = [join(import.meta.dirname, 'bare.c'), join(machine, 'boot.c')];
  const init = join(folder, 'init');
  await execute(['cc', '-D_GNU_SOURCE', '-O2', '-static', ...include, '-o', init, ...sources]);
  const archive = join(folder, 'initramfs');
  const more = join(folder, 'init.cpio');
  await execute(['bsdtar', '--format', 'newc', '-C', folder, '-cf', more, 'init']);
  await pipeline(createReadStream(boot.initramfs), createWriteStream(archive));
  await pipeline(createReadStream(more), createWriteStream(archive, { flags: 'a' }));
  return archive;
}

const hasEnded = ({ exitCode, signalCode }: ChildProcess) =>
  exitCode !== null || signalCode !== null;

export class Guest implements AsyncDisposable {
  readonly #folder: string;
  readonly #processes: ChildProcess[] = [];
  readonly #server = createServer();
  #port: Socket | undefined;
  #received = 0;
  #last = 0;
  #wake: () => void = () => undefined;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Resolves when its first program has spoken. `bind` is its /mnt, and read-only as its root. */
  static async start(
    bed: Bed,
    ground: Ground,
    first: 'kiln’s stage 0' | 'bare',
    bind = bed.scratch,
  ): Promise<Guest> {
    const guest = new Guest(await mkdtemp(join(bed.scratch, 'guest-')));
    try {
      await guest.#start(bed, ground, first, bind);
      return guest;
    } catch (error) {
      await guest[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #start(bed: Bed, ground: Ground, first: string, bind: string): Promise<void> {
    const file = (name: string) => join(this.#folder, name);
    const { qemu, virtiofsd } = machinePrograms();
    const { boot, accelerator } = ground;
    const initramfs = first === 'bare' ? await bareInitramfs(this.#folder, ground) : boot.initramfs;
    for (const name of ['share/root', 'share/bind']) await mkdir(file(name), { recursive: true });
    // The mounts end with the namespace.
    const share = `mount --bind "$1" "$0/root" && mount --bind "$2" "$0/bind" && shift 2 && exec "$@"`;
    const options = [
      '--sandbox=none',
      '--cache=auto',
      '--xattr',
      '--inode-file-handles=never',
      '--log-level=error',
    ];
    const files = [
      virtiofsd,
      `--socket-path=${file('files.sock')}`,
      `--shared-dir=${file('share')}`,
    ];
    const shown = [file('share'), bed.tree, bind];
    this.#spawn(['unshare', '-m', 'sh', '-c', share, ...shown, ...files, ...options]);
    this.#server.listen(file('port.sock')).on('connection', (socket) => this.#take(socket));
    while (!existsSync(file('files.sock'))) await sleep(5);
    const memory = `${ownMemory() + GUEST_MEMORY}B`;
    const processor = accelerator === 'kvm' ? 'host' : 'max';
    this.#spawn([
      ...[qemu, '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
      ...['-accel', accelerator === 'kvm' ? 'kvm' : 'tcg,tb-size=256', '-cpu', processor],
      ...['-smp', String(availableParallelism()), '-m', memory],
      ...['-object', `memory-backend-memfd,id=memory,size=${memory},share=on`],
      ...['-machine', 'q35,memory-backend=memory', '-serial', `file:${file('console')}`],
      ...['-chardev', `socket,id=files,path=${file('files.sock')}`],
      ...['-device', `vhost-user-fs-pci,chardev=files,tag=${PORT.tag},queue-size=1024`],
      ...[
        '-chardev',
        `socket,id=port,path=${file('port.sock')}`,
        '-device',
        'virtio-serial-pci,max_ports=2',
      ],
      ...['-device', `virtserialport,chardev=port,name=${PORT.name}`],
      ...[
        '-object',
        'rng-random,id=rng,filename=/dev/urandom',
        '-device',
        'virtio-rng-pci,rng=rng',
      ],
      ...['-kernel', boot.kernel, '-initrd', initramfs, '-append', commandLine(accelerator)],
    ]);
    await this.#receive(1);
  }

  #spawn(argv: readonly string[]): void {
    const [program = '', ...args] = argv;
    const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    child.once('exit', () => this.#wake());
    this.#processes.push(child);
  }

  #take(socket: Socket): void {
    this.#port = socket;
    socket.on('data', (bytes) => {
      this.#received += bytes.length;
      this.#last = bytes.at(-1) ?? 0;
      this.#wake();
    });
  }

  async #receive(count: number): Promise<void> {
    while (this.#received < count) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      const ended = this.#processes.find(hasEnded);
      if (ended !== undefined) throw new Error(`${ended.spawnfile} of a bare guest has ended`);
    }
    this.#received = 0;
  }

  /** Runs a script there that writes so many bytes, and returns the milliseconds that it took. */
  async run(script: string, bytes = 0): Promise<number> {
    const start = performance.now();
    this.#port?.write(`${script}\0`);
    await this.#receive(bytes + 1);
    const time = performance.now() - start;
    if (this.#last !== 0) throw new Error(`${script}: exit status ${this.#last} in a bare guest`);
    return time;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#port?.destroy();
    this.#server.close();
    const over = this.#processes.map(async (child) => {
      if (hasEnded(child)) return;
      const exit = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await exit;
    });
    await Promise.all(over);
    await rm(this.#folder, { recursive: true, force: true });
  }
}
