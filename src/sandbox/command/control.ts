import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { signalNumber } from '../../host/process/signals.ts';
import { nextPacket, unixSocketPair } from '../../host/sockets/unix-socket.ts';
import { awaitedLater } from '../../promise.ts';
import { encodeRequest, encodeSignal } from '../wire/codec.ts';
import type { Parts, RequestField } from '../wire/table.ts';
import type { Channel } from './channel.ts';
import { operationError } from './failures.ts';

/** Requests that the init answers by their id. */
type Asked =
  | 'directory'
  | 'socket'
  | 'dhcp-socket'
  | 'address'
  | 'adopt'
  | 'kill-session'
  | 'notify-socket'
  | 'layer'
  | 'root';

export type SandboxDirectory = Parts<'directory'>;

export class SandboxControl {
  readonly #channel: Channel;

  constructor(channel: Channel) {
    this.#channel = channel;
  }

  get gone(): Promise<void> {
    if (this.#channel.ended) return Promise.resolve();
    return new Promise((resolve) => this.#channel.once('end', () => resolve()));
  }

  /** Ends every process in the sandbox. */
  async killAll(): Promise<void> {
    this.#channel.send(encodeRequest('kill-all', []));
    await this.#channel.ask((answer) => (answer.type === 'quiet' ? true : undefined));
  }

  /** The init lives on without a connection for so long. */
  keep(milliseconds: number): void {
    const seconds = Math.max(1, Math.ceil(milliseconds / 1000));
    this.#channel.send(encodeRequest('keep', [{ op: 'ttl', seconds }]));
  }

  async makeDirectories(directories: readonly SandboxDirectory[]): Promise<void> {
    if (directories.length === 0) return;
    await this.#ask(
      'directory',
      directories.map((directory) => ({ op: 'directory', ...directory })),
    );
  }

  /** Unconnected, non-blocking, of streams, in the sandbox's network. The caller closes it. Throws E_SETUP. */
  socket(family: Parts<'family'>['family']): Promise<number> {
    return this.#received('socket', [{ op: 'family', family }]);
  }

  /** Of datagrams, on an interface and the port of DHCP clients. The caller closes it. Throws E_SETUP. */
  dhcpSocket(name: string): Promise<number> {
    return this.#received('dhcp-socket', [{ op: 'interface', interface: name }]);
  }

  async setAddress(name: string, address: Parts<'address'>): Promise<void> {
    await this.#ask('address', [
      { op: 'interface', interface: name },
      { op: 'address', ...address },
    ]);
  }

  /** What Layers.open() opens of a layer, the first of which is the root's. The caller closes it. Throws E_SETUP. */
  layer(nth: number): Promise<number> {
    return this.#received('layer', [{ op: 'layer', nth }]);
  }

  /** Ends every process, and gives the commands to come a root of these parts: see REQUESTS. Throws E_SETUP. */
  async changeRoot(parts: readonly RequestField<'root'>[], fds: readonly number[]): Promise<void> {
    await this.#ask('root', parts, fds);
  }

  async #received(request: Asked, fields: readonly RequestField<Asked>[]): Promise<number> {
    const pair = unixSocketPair();
    using ours = closing(pair[0]);
    using theirs = closing(pair[1]);
    await this.#ask(request, fields, [theirs.fd]);
    // Of a machine it comes behind the answer where others fill the port.
    const [received] = (await nextPacket(ours.fd, 1, 1))?.fds ?? [];
    if (received === undefined) throw new KilnError('E_PROTOCOL', 'the init sent no descriptor');
    return received;
  }

  async adopt(pid: number) {
    const id = this.#channel.newId();
    // Listen before sending: the process may end at once.
    const ended = awaitedLater(
      this.#channel.wait((answer) =>
        answer.type === 'exited' && answer.id === id ? answer : undefined,
      ),
    );
    const session = await this.#ask('adopt', [{ op: 'process', pid }], [], id);
    const kill = (signal: NodeJS.Signals) =>
      this.#channel.send(encodeSignal(id, signalNumber(signal)));
    return { session, ended, kill };
  }

  killSession(session: number, signal: NodeJS.Signals): Promise<number> {
    return this.#ask('kill-session', [
      { op: 'process', pid: session },
      { op: 'signal', signal: signalNumber(signal) },
    ]);
  }

  async listenForNotifications(
    path: string,
    heard: (pid: number, text: string) => void,
  ): Promise<void> {
    this.#channel.on('answer', (answer) => {
      if (answer.type === 'notify') heard(answer.pid, answer.said.toString('utf8'));
    });
    await this.#ask('notify-socket', [{ op: 'socket', path }]);
  }

  async #ask(
    request: Asked,
    fields: readonly RequestField<Asked>[],
    fds: readonly number[] = [],
    id = this.#channel.newId(),
  ): Promise<number> {
    const message = encodeRequest<Asked>(request, [{ op: 'id', id }, ...fields]);
    const answered = awaitedLater(
      this.#channel.ask((answer) => {
        if (answer.type === 'failed' && answer.id === id) throw operationError(answer);
        return answer.type === 'done' && answer.id === id ? answer.value : undefined;
      }),
    );
    this.#channel.send(message, fds);
    return await answered;
  }
}
