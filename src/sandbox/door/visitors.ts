/** Visitors of a sandbox, as the process that holds it serves them: over a socket in a folder that only root enters. */
import { mkdirSync } from 'node:fs';
import type { Socket } from 'node:net';
import { dirname } from 'node:path';
import { KilnError } from '../../errors.ts';
import { closeDescriptor, closing, createPipe } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { FrameServer } from '../../host/sockets/frame-server.ts';
import { encodeMessage, FRAME, type ReceivedFrame, wired } from '../../host/sockets/frames.ts';
import { sendPacket } from '../../host/sockets/unix-socket.ts';
import { awaitedLater } from '../../promise.ts';
import { endOf, type HandOver, type HostStdio, type SandboxProcess } from '../command/process.ts';
import { sandboxFiles } from '../domain/sandbox-record.ts';
import type { PublishedPort } from '../policy/network.ts';
import type { ExecuteRequest, KeptCommand } from './plan.ts';
import type { PlannedSandbox } from './planned-sandbox.ts';
import type {
  ExecuteAnswer,
  ExecuteControl,
  ExecuteMessage,
  LayerAnswer,
  LayerMessage,
  PackMessage,
  PortsMessage,
  ProcessesMessage,
  ReadRequest,
  ReceiveMessage,
  RootAnswer,
  RootMessage,
  TerminateMessage,
  WriteRequest,
} from './visit.ts';

/** Takes further commands from now on, for `kiln exec` and the API, and gives and takes files. */
export class Visitors {
  readonly #sandbox: PlannedSandbox;
  readonly #kept: KeptCommand;
  #server: FrameServer | undefined;
  #isOpen = true;

  /**
   * @param kept what commands are as, with arguments, and what else they ask for
   * @param until the sandbox's command, to whose end it is: what is then in the sandbox is collected, and must not change
   */
  constructor(sandbox: PlannedSandbox, kept: KeptCommand, until?: SandboxProcess) {
    this.#sandbox = sandbox;
    this.#kept = kept;
    const path = sandboxFiles.visit(sandbox.folder);
    sandbox.whenLeft(() => this.close());
    until?.once('exit', () => this.close());
    try {
      mkdirSync(dirname(path), { mode: 0o700 });
    } catch (error) {
      // A kept sandbox has it. Where the sandbox is gone, its folder must not come back.
      if (!hasErrno(error, 'EEXIST')) return;
    }
    try {
      this.#server = new FrameServer(path, (client, fd) => this.#serve(client, fd));
    } catch {
      // Nobody visits then; the sandbox's own command goes on.
      this.close();
    }
  }

  get count(): number {
    return this.#server?.clients.size ?? 0;
  }

  /** Lets nobody in any more. Commands that run go on. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#server?.close();
  }

  async left(): Promise<void> {
    await this.#server?.left();
  }

  /** @throws KilnError E_SANDBOX_GONE */
  get #open(): PlannedSandbox {
    if (this.#isOpen) return this.#sandbox;
    const what = `the command of sandbox ${this.#sandbox.id} has ended`;
    throw new KilnError('E_SANDBOX_GONE', what, {
      hint: '`kiln run --keep` keeps a sandbox for later',
    });
  }

  async #start(request: ExecuteRequest, handOver: HandOver): Promise<SandboxProcess> {
    const plan = this.#sandbox.furtherCommand(request, this.#kept);
    // First, so that nothing is awaited between the check and the start.
    await this.#sandbox.prepare(plan);
    return (await this.#open.start(plan, { terminal: request.terminal, handOver })).process;
  }

  async #answer(
    request: ReadRequest | WriteRequest | ProcessesMessage | TerminateMessage,
  ): Promise<object> {
    const { tree } = this.#open;
    if (request.do === 'terminate') return { count: await this.#open.terminate() };
    if (request.do === 'processes') return { processes: await tree.processes() };
    if (request.do === 'read') return await tree.read(request);
    if (request.do !== 'write') {
      throw new KilnError('E_SANDBOX_BUSY', 'a kiln of another version holds the sandbox', {
        hint: 'wait until its command has ended, or `kiln kill` it',
      });
    }
    const { path, data, append, mode } = request;
    await tree.put({ path, bytes: Buffer.from(data, 'base64'), append, mode });
    return {};
  }

  #serve(client: Socket, fd: number): (frame: ReceivedFrame) => void {
    let attached: ReturnType<typeof attend> | undefined;
    return (frame) => {
      if (attached !== undefined) return attached(frame);
      if (frame.kind !== FRAME.message) return;
      const asked = JSON.parse(frame.body.toString('utf8')) as
        | ExecuteMessage
        | ReceiveMessage
        | RootMessage
        | LayerMessage
        | PackMessage
        | PortsMessage
        | ProcessesMessage
        | ReadRequest
        | TerminateMessage
        | WriteRequest;
      if (asked.do === 'execute') {
        attached = attend(client, fd, (handOver) => this.#start(asked.command, handOver));
      } else if (asked.do === 'receive') {
        attached = attend(client, fd, (handOver) => this.#open.tree.receiver({ handOver }));
      } else if (asked.do === 'root') {
        this.#sendRoot(client, fd);
      } else if (asked.do === 'layer') {
        this.#sendLayer(client, fd, asked.target).catch((error: unknown) =>
          client.end(encodeMessage({ error: wired(error) })),
        );
      } else if (asked.do === 'pack') {
        this.#sendPacked(client, fd, Buffer.from(asked.patterns, 'base64')).then(
          () => client.end(encodeMessage({})),
          (error: unknown) => client.end(encodeMessage({ error: wired(error) })),
        );
      } else if (asked.do === 'publish') {
        this.#publishFor(client, asked.ports);
      } else {
        this.#answer(asked).then(
          (answer) => client.end(encodeMessage(answer)),
          (error: unknown) => client.end(encodeMessage({ error: wired(error) })),
        );
      }
    };
  }

  #publishFor(client: Socket, ports: readonly PublishedPort[]): void {
    const begin = async () => {
      const published = await this.#open.ports.publish(ports);
      const end = async () => await published[Symbol.asyncDispose]();
      if (client.destroyed) return await end();
      client.once('close', () => void end().catch(() => undefined));
      client.write(encodeMessage({}));
    };
    begin().catch((error: unknown) => client.end(encodeMessage({ error: wired(error) })));
  }

  #sendRoot(client: Socket, fd: number): void {
    try {
      const { tree } = this.#open;
      using root = closing(tree.openRoot());
      sendPacket(fd, encodeMessage({ root: tree.hostUser } satisfies RootAnswer), [root.fd]);
      client.end();
    } catch (error) {
      client.end(encodeMessage({ error: wired(error) }));
    }
  }

  async #sendPacked(client: Socket, fd: number, patterns: Buffer): Promise<void> {
    const { inside } = this.#open.tree;
    if (inside === undefined) throw new TypeError('the files of a container need not be packed');
    const pipe = createPipe(0);
    const packed = awaitedLater(inside.pack(patterns, pipe.write));
    closeDescriptor(pipe.write);
    try {
      // The number of a closed descriptor may be another one's.
      if (!client.destroyed) sendPacket(fd, encodeMessage({}), [pipe.read]);
    } finally {
      // Packing goes on while somebody reads.
      closeDescriptor(pipe.read);
    }
    await packed;
  }

  async #sendLayer(client: Socket, fd: number, target: string): Promise<void> {
    const { idRange, protectedPaths, layers, facts } = this.#open;
    using home = closing(await layers.open(target));
    const answer = { idRange, protectedPaths, folders: layers.folders, mounts: facts.mounts };
    // The number of a closed descriptor may be another one's.
    if (client.destroyed) return;
    sendPacket(fd, encodeMessage(answer satisfies LayerAnswer), [home.fd]);
    client.end();
  }
}

/** What a command whose client is gone has to end by itself, milliseconds. */
const HANG_UP = 5000;

/**
 * Starts a command for a client, whose frames the result takes. The command ends with the client.
 * @param fd the client's, which sends descriptors
 */
export function attend(
  client: Socket,
  fd: number,
  start: (handOver: HandOver) => Promise<SandboxProcess>,
): (frame: ReceivedFrame) => void {
  let command: SandboxProcess | undefined;
  let isTold = false;
  const stdio: number[] = [];
  const handOver = (given: HostStdio) => {
    if ('terminal' in given) stdio.push(given.terminal);
    else stdio.push(given.stdin, given.stdout, given.stderr);
    return { onMoved: () => undefined, end: () => undefined, drained: Promise.resolve() };
  };
  const begin = async () => {
    const started = await start(handOver);
    command = started;
    const ended = awaitedLater(endOf(started));
    const hangUp = () => {
      started.kill('SIGHUP');
      setTimeout(() => started.kill('SIGKILL'), HANG_UP).unref();
    };
    client.once('close', hangUp);
    // The number of a closed descriptor may be another one's.
    if (client.destroyed) return hangUp();
    const { pid, facts } = started;
    sendPacket(fd, encodeMessage({ started: { pid, facts } } satisfies ExecuteAnswer), stdio);
    // A copy of stdin's would keep its end from the command.
    for (const one of stdio.splice(0)) closeDescriptor(one);
    isTold = true;
    client.end(encodeMessage((await ended) satisfies ExecuteAnswer));
  };
  begin()
    .catch((error: unknown) => {
      // Of a start that could be told in part only, the client hears no more.
      if (command !== undefined && !isTold) client.destroy();
      else client.end(encodeMessage({ error: wired(error) } satisfies ExecuteAnswer));
    })
    .finally(() => stdio.forEach(closeDescriptor));
  return ({ kind, body }) => {
    if (kind !== FRAME.control || command === undefined) return;
    const control = JSON.parse(body.toString()) as ExecuteControl;
    if ('signal' in control) command.kill(control.signal);
    else command.resize(control.rows, control.columns);
  };
}
