/** A call of a method of the API, for whoever answers it: in the daemon, or in a worker of its. */
import { randomBytes } from 'node:crypto';
import { KilnError } from '../errors.ts';
import type { Peer, PeerIdentity } from './peer.ts';
import { type CallMessage, continues, encodeError, encodeReply } from './varlink.ts';

/** Bytes that may wait for the caller before whoever answers is asked to wait. */
const WAITING_MAX = 1 << 20;

/** What somebody wants to be done to a command that was started by a call. */
export interface Control {
  /** Bytes for its standard input, base64. */
  readonly data?: string | undefined;
  /** Its standard input ends. */
  readonly end?: boolean | undefined;
  readonly signal?: string | undefined;
  readonly size?: { readonly rows: number; readonly columns: number } | undefined;
}

/** A call as it passes from the daemon to a worker. */
export interface CallHead extends Pick<CallMessage, 'method' | 'parameters' | 'more' | 'oneway'> {
  readonly identity: PeerIdentity;
  /** What others call the command that it starts. */
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

  /** A call that has just come. */
  static from(peer: Peer, message: CallMessage): Call {
    const process = randomBytes(16).toString('hex');
    const { method, parameters, more, oneway } = message;
    return new Call(peer, { method, parameters, more, oneway, identity: peer.identity, process });
  }

  /** Aborted when the caller is gone: nobody waits for anything any more. */
  get signal(): AbortSignal {
    return this.#gone.signal;
  }

  /** Whether its last reply has been given. */
  get over(): boolean {
    return this.#over;
  }

  /** The caller is gone. */
  gone(): void {
    this.#gone.abort(new KilnError('E_INTERRUPTED', 'the caller is gone'));
  }

  /** Gives one of several replies, if several were asked for. */
  reply(parameters: object): void {
    if (this.#over || !this.head.more || this.head.oneway) return;
    this.forward(encodeReply(parameters, true));
  }

  /** Gives a reply as it is, whole. */
  forward(reply: Buffer): void {
    if (continues(reply)) this.#peer.send(reply);
    else this.#last(reply);
  }

  /** Whether the caller takes replies as fast as they come. */
  get hasRoom(): boolean {
    return this.#peer.unsentBytes <= WAITING_MAX;
  }

  /** Resolves when there is room for another reply. */
  async room(): Promise<void> {
    if (!this.hasRoom) await this.#peer.sent();
  }

  /** Gives the last reply. */
  end(parameters: object): void {
    this.#last(encodeReply(parameters));
  }

  /** Gives an error, which is the last reply. */
  fail(error: string, parameters: object = {}): void {
    this.#last(encodeError(error, parameters));
  }

  #last(reply: Buffer): void {
    if (this.#over) return;
    this.#over = true;
    if (this.#isPart) this.#outcome = reply;
    else if (!this.head.oneway) this.#peer.send(reply);
  }

  /** Another call that has to be answered before this one: what it tells is told, its last reply is not. */
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

  /** Has `control` do what is wanted of the command that it has started. */
  onControl(control: ((control: Control) => Promise<void>) | undefined): void {
    this.#control = control;
  }

  /** @throws KilnError E_NO_PROCESS where there is no command, E_ARGUMENT */
  async control(control: Control): Promise<void> {
    if (this.#control === undefined) throw this.noProcess();
    await this.#control(control);
  }

  /** The error for a command that is not there. */
  noProcess(): KilnError {
    return new KilnError('E_NO_PROCESS', 'no running command has this process name', {
      hint: 'it may have ended; `started` has the name of its process',
    });
  }
}
