import { randomBytes } from 'node:crypto';
import { addAbortListener } from 'node:events';
import { KilnError } from '../errors.ts';
import { attempt } from '../host/calls/libc.ts';
import { deferred } from '../promise.ts';
import { Peer, type PeerIdentity } from './peer.ts';
import { ThreadShare } from './thread-share.ts';

/** Bytes of a message of Varlink (https://varlink.org/Method-Call): JSON that ends with a NUL byte. */
export const MESSAGE_MAX = 4 << 20;

/** Values in a user's message: more are not read in the daemon's own thread. What base64 encodes has no comma. */
const USER_VALUES = 20_000;
const COMMA = 0x2c;

/** Without reading it: each value but the first has a comma before it, and so have some texts inside. */
export function isForUsers(message: Buffer): boolean {
  let count = 0;
  for (let at = message.indexOf(COMMA); at !== -1; at = message.indexOf(COMMA, at + 1)) {
    if (++count > USER_VALUES) return false;
  }
  return true;
}

export const SERVICE_ERROR = {
  interfaceNotFound: 'org.varlink.service.InterfaceNotFound',
  methodNotFound: 'org.varlink.service.MethodNotFound',
  invalidParameter: 'org.varlink.service.InvalidParameter',
  permissionDenied: 'org.varlink.service.PermissionDenied',
} as const;

interface CallWords {
  readonly method: string;
  readonly parameters: Readonly<Record<string, unknown>>;
  readonly more: boolean;
  readonly oneway: boolean;
}

export interface CallMessage extends CallWords {
  readonly upgrade: boolean;
}

/** @param looked so many bytes were there before, without the end of a message */
export function firstMessage(bytes: Buffer, looked = 0): Buffer | undefined {
  const end = bytes.indexOf(0, looked);
  return end === -1 ? undefined : bytes.subarray(0, end);
}

export function parseCall(message: Buffer): CallMessage | undefined {
  const value: unknown = attempt(() => JSON.parse(message.toString('utf8')));
  if (!isObject(value) || typeof value.method !== 'string') return undefined;
  const { method, more, oneway, upgrade } = value;
  // systemd and others write null for missing fields.
  const parameters = value.parameters ?? {};
  if (!isObject(parameters)) return undefined;
  const flags = [more, oneway, upgrade].map((flag) => flag ?? false);
  if (!flags.every((flag) => typeof flag === 'boolean')) return undefined;
  const [isMore = false, isOneway = false, isUpgrade = false] = flags;
  return { method, parameters, more: isMore, oneway: isOneway, upgrade: isUpgrade };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

const CONTINUES = '{"continues":true,';

export function encodeReply(parameters: object = {}, continues = false): Buffer {
  const text = JSON.stringify(parameters);
  return Buffer.from(`${continues ? CONTINUES : '{'}"parameters":${text}}\0`);
}

export function continues(reply: Buffer): boolean {
  return reply.toString('latin1', 0, CONTINUES.length) === CONTINUES;
}

export function encodeError(error: string, parameters: object = {}): Buffer {
  return Buffer.from(`${JSON.stringify({ error, parameters })}\0`);
}

/** More bytes that wait for the caller hold up the answering code. */
const WAITING_MAX = 1 << 20;

export interface Control {
  /** Base64, for standard input. */
  readonly data?: string | undefined;
  readonly end?: boolean | undefined;
  readonly signal?: string | undefined;
  readonly size?: { readonly rows: number; readonly columns: number } | undefined;
}

export interface CallHead extends CallWords {
  readonly identity: PeerIdentity;
  readonly process: string;
}

/** What a call needs of its connection. */
export type CallConnection = Pick<Peer, 'identity' | 'send' | 'unsentBytes' | 'sent'>;

export class Call {
  readonly head: CallHead;
  readonly share: ThreadShare;
  readonly #peer: CallConnection;
  readonly #gone = new AbortController();
  readonly signal = this.#gone.signal;
  over = false;
  #isPart = false;
  outcome: Buffer | undefined;
  #control: ((control: Control) => Promise<void>) | undefined;

  constructor(peer: CallConnection, head: CallHead) {
    this.#peer = peer;
    this.head = head;
    this.share = ThreadShare.of(head.identity.uid);
  }

  static from(peer: CallConnection, message: CallMessage): Call {
    const process = randomBytes(16).toString('hex');
    const { method, parameters, more, oneway } = message;
    return new Call(peer, { method, parameters, more, oneway, identity: peer.identity, process });
  }

  gone(): void {
    this.#gone.abort(new KilnError('E_INTERRUPTED', 'the caller is gone'));
  }

  reply(parameters: object): void {
    if (this.over || !this.head.more || this.head.oneway) return;
    this.forward(encodeReply(parameters, true));
  }

  forward(reply: Buffer): void {
    if (continues(reply)) this.#peer.send(reply);
    else this.#last(reply);
  }

  get hasRoom(): boolean {
    return this.#peer.unsentBytes <= WAITING_MAX && !this.share.isUsedUp;
  }

  async room(): Promise<void> {
    await this.#peer.sent();
    if (this.share.isUsedUp) await this.share.room();
  }

  end(parameters: object): void {
    this.#last(encodeReply(parameters));
  }

  fail(error: string, parameters: object = {}): void {
    this.#last(encodeError(error, parameters));
  }

  #last(reply: Buffer): void {
    if (this.over) return;
    this.over = true;
    if (this.#isPart) this.outcome = reply;
    else if (!this.head.oneway) this.#peer.send(reply);
  }

  /** Must be answered before this call: its events are passed on, its last reply is not. */
  part(method: string, parameters: CallHead['parameters']): Call {
    const part = new Call(this.#peer, { ...this.head, method, parameters });
    part.#isPart = true;
    this.signal.addEventListener('abort', () => part.gone(), { once: true });
    if (this.signal.aborted) part.gone();
    return part;
  }

  onControl(control: ((control: Control) => Promise<void>) | undefined): void {
    this.#control = control;
  }

  async control(control: Control): Promise<void> {
    if (this.#control === undefined) throw this.noProcess();
    await this.#control(control);
  }

  noProcess(): KilnError {
    return new KilnError('E_NO_PROCESS', 'no running command has this process name', {
      hint: 'it may have ended; `started` has the name of its process',
    });
  }
}

/** Begins a worker's message that a request was done; no reply begins so. */
export const CONTROLLED = '{"controlled":';

/**
 * Passes replies of the worker on `connection` to the caller, requests about the command to the worker.
 * Resolves when the worker closes; {@link Call.over} tells whether the last reply came.
 */
export async function forwardCall(call: Call, connection: number): Promise<void> {
  const over = deferred<void>();
  const controls: PromiseWithResolvers<void>[] = [];
  const peer: Peer = new Peer(
    connection,
    {
      data: (bytes) => {
        const message = firstMessage(bytes);
        if (message === undefined) return 0;
        const reply = bytes.subarray(0, message.length + 1);
        if (reply.toString('latin1', 0, CONTROLLED.length) === CONTROLLED) {
          const { controlled } = JSON.parse(message.toString()) as { controlled: boolean };
          const control = controls.shift();
          if (controlled) control?.resolve();
          else control?.reject(call.noProcess());
        } else {
          call.forward(Buffer.from(reply));
          if (!call.hasRoom) peer.pause(call.room());
        }
        return reply.length;
      },
      end: () => {
        for (const control of controls.splice(0)) control.reject(call.noProcess());
        over.resolve();
      },
    },
    { trusted: 'everybody' },
  );
  call.onControl(async (control: Control) => {
    if (peer.ended) throw call.noProcess();
    const done = deferred<void>();
    controls.push(done);
    peer.send(Buffer.from(`${JSON.stringify(control)}\0`));
    await done.promise;
  });
  using _gone = addAbortListener(call.signal, () => peer.destroy());
  await over.promise;
  call.onControl(undefined);
}
