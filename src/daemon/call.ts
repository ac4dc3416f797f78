/** A call of a method of the API, in the daemon or in one of its workers. */
import { randomBytes } from 'node:crypto';
import { KilnError } from '../errors.ts';
import type { Peer, PeerIdentity } from './peer.ts';
import { type CallMessage, continues, encodeError, encodeReply } from './varlink.ts';

/** The most bytes that may wait for the caller before the answering code must wait. */
const WAITING_MAX = 1 << 20;

/** A request about a command that a call started. */
export interface Control {
  /** Bytes for its standard input, base64. */
  readonly data?: string | undefined;
  /** Its standard input ends. */
  readonly end?: boolean | undefined;
  readonly signal?: string | undefined;
  readonly size?: { readonly rows: number; readonly columns: number } | undefined;
}

/** A call on its way from the daemon to a worker. */
export interface CallHead extends Pick<CallMessage, 'method' | 'parameters' | 'more' | 'oneway'> {
  readonly identity: PeerIdentity;
  /** The name by which other calls refer to its command. */
  readonly process: string;
}

export class Call {
  readonly head: CallHead;
  readonly #peer: Peer;
  readonly #gone = new AbortController();
  #over = false;
  #isPart = false;
  #outcome: Buffer | undefined;
  #control: ((control: Control) => Promise<void>) | undefined;

  constructor(peer: Peer, head: CallHead) {
    this.#peer = peer;
    this.head = head;
  }

  /** A new call. */
  static from(peer: Peer, message: CallMessage): Call {
    const process = randomBytes(16).toString('hex');
    const { method, parameters, more, oneway } = message;
    return new Call(peer, { method, parameters, more, oneway, identity: peer.identity, process });
  }

  /** Aborted when the caller is gone. */
  get signal(): AbortSignal {
    return this.#gone.signal;
  }

  /** Whether the last reply was given. */
  get over(): boolean {
    return this.#over;
  }

  /** The caller is gone. */
  gone(): void {
    this.#gone.abort(new KilnError('E_INTERRUPTED', 'the caller is gone'));
  }

  /** Sends one of several replies, if the caller asked for several. */
  reply(parameters: object): void {
    if (this.#over || !this.head.more || this.head.oneway) return;
    this.forward(encodeReply(parameters, true));
  }

  /** Sends a complete reply unchanged. */
  forward(reply: Buffer): void {
    if (continues(reply)) this.#peer.send(reply);
    else this.#last(reply);
  }

  /** Whether the caller reads replies as fast as they come. */
  get hasRoom(): boolean {
    return this.#peer.unsentBytes <= WAITING_MAX;
  }

  /** Resolves when another reply can be sent. */
  async room(): Promise<void> {
    if (!this.hasRoom) await this.#peer.sent();
  }

  /** Sends the last reply. */
  end(parameters: object): void {
    this.#last(encodeReply(parameters));
  }

  /** Sends an error, which is the last reply. */
  fail(error: string, parameters: object = {}): void {
    this.#last(encodeError(error, parameters));
  }

  #last(reply: Buffer): void {
    if (this.#over) return;
    this.#over = true;
    if (this.#isPart) this.#outcome = reply;
    else if (!this.head.oneway) this.#peer.send(reply);
  }

  /** Another call that must be answered before this one: its events are passed on, its last reply is not. */
  part(method: string, parameters: CallHead['parameters']): Call {
    const part = new Call(this.#peer, { ...this.head, method, parameters });
    part.#isPart = true;
    this.signal.addEventListener('abort', () => part.gone(), { once: true });
    if (this.signal.aborted) part.gone();
    return part;
  }

  /** The last reply of a {@link part}. */
  get outcome(): Buffer | undefined {
    return this.#outcome;
  }

  /** Sets the handler of requests about the call's command. */
  onControl(control: ((control: Control) => Promise<void>) | undefined): void {
    this.#control = control;
  }

  /** @throws KilnError E_NO_PROCESS where there is no command, E_ARGUMENT */
  async control(control: Control): Promise<void> {
    if (this.#control === undefined) throw this.noProcess();
    await this.#control(control);
  }

  /** The error for a missing command. */
  noProcess(): KilnError {
    return new KilnError('E_NO_PROCESS', 'no running command has this process name', {
      hint: 'it may have ended; `started` has the name of its process',
    });
  }
}
