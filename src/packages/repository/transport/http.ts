import * as http from 'node:http';
import * as https from 'node:https';
import type { Readable } from 'node:stream';
import { isDeepStrictEqual } from 'node:util';
import { defined } from '../../../defined.ts';
import { KilnError } from '../../../errors.ts';
import { deferred } from '../../../promise.ts';
import type { RepositoryAccess } from './access.ts';
import {
  AddressRefused,
  checkHost,
  hostOf,
  proxyEnvironment,
  publicLookup,
  type Reach,
  reachThrough,
} from './reach.ts';
import type { TransferOptions } from './transfer.ts';

const MAX_REDIRECTS = 10;

/** What a host without a way to the internet meets. */
const UNREACHED = ['ENOTFOUND', 'EAI_AGAIN', 'ENETUNREACH', 'EHOSTUNREACH', 'ETIMEDOUT'];

export class TransferError extends KilnError {
  readonly transient: boolean;
  readonly unauthorized: boolean;
  /** There was no connection to the server or to the proxy on the way. */
  readonly unreached: boolean;
  /** How long the server asks kiln to wait, milliseconds. */
  readonly retryAfter: number | undefined;

  constructor(
    message: string,
    options: {
      readonly transient: boolean;
      readonly unauthorized?: boolean;
      readonly retryAfter?: number | undefined;
      readonly cause?: unknown;
    },
  ) {
    super('E_DOWNLOAD', message, { cause: options.cause });
    this.transient = options.transient;
    this.unauthorized = options.unauthorized === true;
    this.unreached = UNREACHED.includes(String((options.cause as NodeJS.ErrnoException)?.code));
    this.retryAfter = options.retryAfter;
  }
}

export interface GetOptions {
  readonly headers: Readonly<Record<string, string>>;
  readonly transfer: TransferOptions;
  readonly signal: AbortSignal | undefined;
  /** Whether https may redirect to http. That is fine for content with a known digest, and mirrors do it. */
  readonly allowPlain: boolean;
  readonly reach: Reach;
  readonly access?: RepositoryAccess | undefined;
}

export interface Answer {
  readonly status: number;
  readonly statusText: string;
  readonly headers: http.IncomingHttpHeaders;
  /** The address of the server or a proxy. */
  readonly remoteAddress: string | undefined;
  readonly body: Arrivals;
}

const agentOptions = { keepAlive: true, maxSockets: 16 };

/** Each reach has connections of its own: one whose address was not checked must not be reused for others. */
function clients(options: typeof agentOptions & { readonly proxyEnv: Record<string, string> }) {
  const make = () => ({
    'http:': { request: http.request, agent: new http.Agent(options) },
    'https:': { request: https.request, agent: new https.Agent(options) },
  });
  return { options, schemes: { named: make(), public: make() } };
}

let made: ReturnType<typeof clients> | undefined;

/**
 * The proxy comes from http_proxy, https_proxy, no_proxy and kiln.yaml. Compression is neither requested nor undone:
 * the digests in a repository are of the bytes on the wire.
 */
async function currentClients(): Promise<ReturnType<typeof clients>> {
  const proxyEnv = await proxyEnvironment();
  if (made === undefined || !isDeepStrictEqual(made.options.proxyEnv, proxyEnv)) {
    made = clients({ ...agentOptions, proxyEnv });
  }
  return made;
}

/**
 * GETs `url`, following redirects, up to the end of the answer's head.
 * @throws TransferError for anything but 200, 206, 304 and 416; the signal's reason.
 */
export async function get(url: string, options: GetOptions): Promise<Answer> {
  let current = new URL(url);
  let { reach } = options;
  for (let redirects = 0; ; redirects++) {
    const answer = await ask(current, { ...options, reach });
    const { status } = answer;
    if (status === 200 || status === 206 || status === 304 || status === 416) return answer;
    const target = answer.headers.location;
    answer.body[Symbol.dispose]();
    if (![301, 302, 303, 307, 308].includes(status) || target === undefined) {
      throw new TransferError(`${status} ${answer.statusText}`.trim(), {
        unauthorized: status === 401 || status === 403,
        transient: status >= 500 || status === 408 || status === 425 || status === 429,
        retryAfter: retryAfter(answer.headers['retry-after']),
      });
    }
    if (redirects >= MAX_REDIRECTS) {
      throw new TransferError('it redirects in circles', { transient: false });
    }
    if (reach === 'named') reach = await reachThrough(current, answer.remoteAddress);
    current = redirect(current, target, options.allowPlain);
  }
}

function redirect(from: URL, target: string, allowPlain: boolean): URL {
  const to = URL.parse(target, from.href);
  if (to === null || (to.protocol !== 'http:' && to.protocol !== 'https:')) {
    throw new TransferError(`it redirects to ${target}`, { transient: false });
  }
  if (from.protocol === 'https:' && to.protocol === 'http:' && !allowPlain) {
    throw new TransferError(`it redirects to ${to.href}, which is not encrypted`, {
      transient: false,
    });
  }
  return to;
}

async function ask(url: URL, options: GetOptions): Promise<Answer> {
  const { reach, access } = options;
  if (reach === 'public') {
    await checkHost(url).catch((error: unknown) => {
      throw connectionError(error);
    });
  }
  const { options: usualOptions, schemes } = await currentClients();
  const { request, agent: usual } = schemes[reach][url.protocol as 'http:' | 'https:'];
  const agent =
    (url.protocol === 'https:' ? access?.agent(reach, usualOptions) : undefined) ?? usual;
  const authorization = access?.authorization(url);
  const { promise, resolve, reject } = deferred<Answer>();
  const headers = {
    ...{ 'user-agent': 'kiln', 'accept-encoding': 'identity' },
    ...options.headers,
    ...defined({ authorization }),
  };
  const sent = request(url, {
    agent,
    headers,
    ...(options.signal && { signal: options.signal }),
    ...(reach === 'public' ? { lookup: publicLookup(hostOf(url)) } : {}),
  });
  const timer = setTimeout(() => {
    sent.destroy(new Error(`no answer within ${options.transfer.answerTimeout} ms`));
  }, options.transfer.answerTimeout);
  sent.on('response', (message) => {
    resolve({
      status: message.statusCode ?? 0,
      statusText: message.statusMessage ?? '',
      headers: message.headers,
      remoteAddress: message.socket?.remoteAddress,
      body: new Arrivals(message),
    });
  });
  sent.on('error', (cause) => {
    if (options.signal?.aborted) reject(options.signal.reason);
    else reject(connectionError(cause));
  });
  sent.end();
  return promise.finally(() => clearTimeout(timer));
}

function connectionError(cause: unknown): TransferError {
  const transient = !(cause instanceof AddressRefused);
  return new TransferError(reason(cause), { transient, cause });
}

/** Node's connection errors to several addresses have no message of their own. */
export function reason(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(reason).join('; ');
  return error instanceof Error && error.message !== '' ? error.message : String(error);
}

function retryAfter(header: string | undefined): number | undefined {
  return header !== undefined && /^\d{1,5}$/.test(header) ? Number(header) * 1000 : undefined;
}

/** The most bytes that may wait here before the sender must wait. */
const ENOUGH = 1 << 20;

/**
 * The chunks of `source`: first all that arrived before a failure, then the failure. (A stream's own iterator
 * drops what it has buffered when the connection breaks, but a download wants to keep it.)
 *
 * Make it as soon as the stream exists, because earlier events are not seen. Iterate it once, or dispose of it.
 */
class Arrivals implements Disposable {
  readonly #source: Readable;
  readonly #queue: Buffer[] = [];
  #waiting = 0;
  #ended = false;
  #failure: unknown;
  #wake: () => void = () => {};

  constructor(source: Readable) {
    this.#source = source;
    source.on('data', (chunk: Buffer) => {
      this.#queue.push(chunk);
      this.#waiting += chunk.length;
      if (this.#waiting > ENOUGH) source.pause();
      this.#wake();
    });
    source.on('end', () => {
      this.#ended = true;
      this.#wake();
    });
    source.on('error', (error) => this.#fail(error));
    source.on('close', () => {
      if (!this.#ended) this.#fail(new Error('the connection was closed'));
    });
  }

  fail(reason: Error): void {
    this.#fail(reason);
    this.#source.destroy();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    try {
      for (;;) {
        const chunk = this.#queue.shift();
        if (chunk !== undefined) {
          this.#waiting -= chunk.length;
          if (this.#waiting <= ENOUGH / 2) this.#source.resume();
          yield chunk;
        } else if (this.#failure !== undefined) {
          throw this.#failure;
        } else if (this.#ended) {
          return;
        } else {
          const { promise, resolve } = deferred<void>();
          this.#wake = resolve;
          await promise;
        }
      }
    } finally {
      this[Symbol.dispose]();
    }
  }

  [Symbol.dispose](): void {
    if (!this.#ended) this.#source.destroy();
  }

  #fail(reason: unknown): void {
    this.#failure ??= reason;
    this.#wake();
  }
}
