/**
 * An HTTP proxy that connects only to hosts of a list: CONNECT, and plain requests with an absolute URL. Its
 * input is hostile; src/programs/egress-proxy.ts is the process around it.
 */

import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import {
  createServer,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import { connect, isIP, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { defined } from '../defined.ts';
import {
  canonicalHost,
  type EgressLog,
  type EgressRule,
  isListed,
  isPublicAddress,
} from './rule.ts';

const MAX_CONNECTIONS = 256;

const IDLE_MS = 10 * 60_000;

const HEAD_MS = 30_000;

/** Headers of a single connection (RFC 9110, 7.6.1), beside those that Connection names. */
const HOP_BY_HOP = [
  ...['connection', 'keep-alive', 'proxy-connection', 'proxy-authenticate'],
  ...['proxy-authorization', 'te', 'trailer', 'transfer-encoding', 'upgrade'],
];

interface Hosts {
  readonly rules: readonly EgressRule[];
  /** Hosts with a public address are let through as well. */
  readonly learns: boolean;
}

interface Way {
  readonly hosts: Hosts;
  readonly log: EgressLog;
  readonly open: Set<Socket>;
}

export function egressProxy(
  hosts: Hosts,
  log: EgressLog,
): { readonly server: Server; close(): void } {
  const way: Way = { hosts, log, open: new Set() };
  const server = createServer({ headersTimeout: HEAD_MS }, (request, response) => {
    forward(way, request, response).catch((error) => answer(response, error));
  });
  server.maxConnections = MAX_CONNECTIONS;
  server.on('connect', (request: IncomingMessage, client: Duplex, head: Buffer) => {
    client.on('error', () => client.destroy());
    tunnel(way, request, client, head).catch((error) => {
      const { status, message } = refusalOf(error);
      client.end(`HTTP/1.1 ${status} kiln\r\nConnection: close\r\n\r\nkiln: ${message}\n`);
    });
  });
  server.on('connection', (socket) => socket.setTimeout(IDLE_MS, () => socket.destroy()));
  return {
    server,
    close: () => {
      server.close();
      server.closeAllConnections();
      for (const socket of way.open) socket.destroy();
    },
  };
}

async function tunnel(
  way: Way,
  request: IncomingMessage,
  client: Duplex,
  head: Buffer,
): Promise<void> {
  const [, host = '', port = '0'] = /^(\[[^\]]*\]|[^:]*):(\d{1,5})$/.exec(request.url ?? '') ?? [];
  const server = await reach(way, host, Number(port));
  server.once('close', () => client.destroy());
  client.once('close', () => server.destroy());
  client.write('HTTP/1.1 200 kiln\r\n\r\n');
  server.write(head);
  client.pipe(server);
  server.pipe(client);
}

async function forward(
  way: Way,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const url = URL.parse(request.url ?? '');
  if (url?.protocol !== 'http:' || !/^http:/i.test(request.url ?? '')) {
    throw new Refusal(400, 'not a request for a proxy');
  }
  const server = await reach(way, url.hostname, Number(url.port || 80));
  const { method } = request;
  const outgoing = httpRequest({
    createConnection: () => server,
    ...defined({ method }),
    path: `${url.pathname}${url.search}`,
    setHost: false,
    headers: {
      ...endToEnd(request.headers),
      host: url.host,
      connection: 'close',
      ...(request.headers['transfer-encoding'] === undefined
        ? {}
        : { 'transfer-encoding': 'chunked' }),
    },
  });
  outgoing.once('error', () => answer(response, new Refusal(502, 'gave no answer')));
  outgoing.once('response', (incoming) => {
    response.writeHead(incoming.statusCode ?? 502, endToEnd(incoming.headers));
    incoming.once('error', () => response.destroy());
    incoming.pipe(response);
  });
  response.once('close', () => server.destroy());
  request.pipe(outgoing);
}

async function reach({ hosts, log, open }: Way, host: string, port: number): Promise<Socket> {
  const once = { count: 1, sentBytes: 0, receivedBytes: 0 };
  const name = host.slice(0, 255).replace(/[^\x21-\x7e]/g, '?');
  try {
    const server = await connectListed(hosts, host, port);
    server.setTimeout(IDLE_MS, () => server.destroy());
    server.on('error', () => server.destroy());
    // Logged at once without bytes, and again with the bytes at the end.
    log.add({ host: name, port, ...once });
    open.add(server);
    server.once('close', () => {
      open.delete(server);
      const { bytesWritten, bytesRead } = server;
      log.add({ host: name, port, count: 0, sentBytes: bytesWritten, receivedBytes: bytesRead });
    });
    return server;
  } catch (error) {
    const { status, message } = refusalOf(error);
    log.add({ host: name, port, refused: message, ...once });
    throw new Refusal(status, `${name}:${port}: ${message} (--egress)`);
  }
}

function refusalOf(error: unknown): Refusal {
  return error instanceof Refusal ? error : new Refusal(502, 'the proxy failed');
}

function answer(response: ServerResponse, error: unknown): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const { status, message } = refusalOf(error);
  response.writeHead(status, { connection: 'close', 'content-type': 'text/plain' });
  response.end(`kiln: ${message}\n`);
}

function endToEnd(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  const named = (headers.connection ?? '').toLowerCase().split(/[\s,]+/);
  return Object.fromEntries(
    Object.entries(headers).filter(
      ([name]) =>
        !HOP_BY_HOP.includes(name) && (name === 'content-length' || !named.includes(name)),
    ),
  );
}

const NOT_PUBLIC = 'its address is not public, and not on the list';

const CONNECT_MS = 15_000;

const ADDRESSES = 8;

class Refusal extends Error {
  readonly status: 400 | 403 | 502 | 504;

  constructor(status: Refusal['status'], message: string) {
    super(message);
    this.status = status;
  }
}

/**
 * A name is looked up once, and the connection goes to one of the addresses that were checked, so a changing answer
 * does not help an attacker. Non-public addresses are left out unless the list names them. Throws a {@link Refusal}.
 */
async function connectListed(
  { rules, learns }: Hosts,
  wanted: string,
  port: number,
): Promise<Socket> {
  const host = canonicalHost(wanted);
  if (host === undefined) throw new Refusal(400, 'not a host');
  const listed = isListed(rules, host, port);
  if (!listed && !learns) throw new Refusal(403, 'not on the list');
  if (!listed && isIP(host) !== 0 && !isPublicAddress(host)) throw new Refusal(403, NOT_PUBLIC);
  const addresses = isIP(host) === 0 ? await resolve(rules, host, port) : [host];
  let last: unknown;
  for (const address of addresses) {
    try {
      return await open(address, port);
    } catch (error) {
      last = error;
    }
  }
  if (last instanceof Refusal) throw last;
  const code = (last as NodeJS.ErrnoException | undefined)?.code ?? 'failed';
  throw new Refusal(502, `cannot be reached: ${code}`);
}

async function resolve(
  rules: readonly EgressRule[],
  host: string,
  port: number,
): Promise<readonly string[]> {
  const found = await lookup(host, { all: true }).catch((error: NodeJS.ErrnoException) => {
    throw new Refusal(502, `cannot be resolved: ${error.code ?? 'failed'}`);
  });
  const allowed = found
    .map(({ address }) => address)
    .filter((address) => isPublicAddress(address) || isListed(rules, address, port));
  if (allowed.length > 0) return allowed.slice(0, ADDRESSES);
  throw new Refusal(403, NOT_PUBLIC);
}

async function open(address: string, port: number): Promise<Socket> {
  const socket = connect({ host: address, port, allowHalfOpen: true });
  using _timer = setTimeout(() => socket.destroy(new Refusal(504, 'does not answer')), CONNECT_MS);
  try {
    await once(socket, 'connect');
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}
