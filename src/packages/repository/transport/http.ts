import * as http from 'node:http';
import * as https from 'node:https';
import { defined } from '../../../defined.ts';
import { KilnError } from '../../../errors.ts';
import { ownEnvironment } from '../../../host/process/own-process.ts';
import { deferred } from '../../../promise.ts';
import type { RepositoryAccess } from './access.ts';
import { Arrivals } from './arrivals.ts';
import {
  AddressRefused,
  checkHost,
  hostOf,
  publicLookup,
  type Reach,
  reachThrough,
} from './reach.ts';
import type { TransferOptions } from './transfer-options.ts';

const MAX_REDIRECTS = 10;

/** A failed attempt, and its consequences. */
export class TransferError extends KilnError {
  /** True if the same URL may work later. */
  readonly transient: boolean;
  /** True if the server asks for a login. */
  readonly unauthorized: boolean;
  /** How long the server asks kiln to wait, milliseconds. */
  readonly retryAfter: number | undefined;

  constructor(
    message: string,
    options: {
      transient: boolean;
      unauthorized?: boolean;
      retryAfter?: number | undefined;
      cause?: unknown;
    },
  ) {
    super('E_DOWNLOAD', message, options.cause === undefined ? {} : { cause: options.cause });
    this.transient = options.transient;
    this.unauthorized = options.unauthorized === true;
    this.retryAfter = options.retryAfter;
  }
}

export interface GetOptions {
  readonly headers: Readonly<Record<string, string>>;
  readonly transfer: TransferOptions;
  readonly signal: AbortSignal | undefined;
  /** Whether https may redirect to http. That is fine for content with a known digest, and mirrors do it. */
  readonly allowPlain: boolean;
  /** The addresses that the URL may lead to. */
  readonly reach: Reach;
  /** The login for its servers. */
  readonly access?: RepositoryAccess | undefined;
}

/** The head of an answer, and its body as it arrives. Read the body or dispose of the answer. */
export interface Answer {
  readonly status: number;
  readonly statusText: string;
  readonly headers: http.IncomingHttpHeaders;
  /** The address of the server or a proxy. */
  readonly remoteAddress: string | undefined;
  readonly body: Arrivals;
}

// The proxy comes from http_proxy, https_proxy and no_proxy. Compression is neither requested nor undone: the
// digests in a repository are of the bytes on the wire.
const agentOptions = { keepAlive: true, maxSockets: 16, proxyEnv: ownEnvironment };

/**
 * Clients by scheme, made when they are needed, because loading TLS takes Node milliseconds. Each reach has
 * connections of its own: one whose address was not checked must not be reused for others.
 */
const schemes = {
  named: {
    'http:': once(() => ({ request: http.request, agent: new http.Agent(agentOptions) })),
    'https:': once(() => ({ request: https.request, agent: new https.Agent(agentOptions) })),
  },
  public: {
    'http:': once(() => ({ request: http.request, agent: new http.Agent(agentOptions) })),
    'https:': once(() => ({ request: https.request, agent: new https.Agent(agentOptions) })),
  },
} as const;

function once<Made>(make: () => Made): () => Made {
  let made: Made | undefined;
  return () => (made ??= make());
}

/**
 * GETs `url`, following redirects, up to the end of the answer's head. The caller reads or destroys
 * the body.
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
      throw refused(error);
    });
  }
  const { request, agent: usual } = schemes[reach][url.protocol as 'http:' | 'https:']();
  const agent =
    (url.protocol === 'https:' ? access?.agent(reach, agentOptions) : undefined) ?? usual;
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
    else reject(refused(cause));
  });
  sent.end();
  return promise.finally(() => clearTimeout(timer));
}

function refused(cause: unknown): TransferError {
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
