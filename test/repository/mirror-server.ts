/** A loopback HTTP server that serves folders as a distribution's mirror does, and misbehaves on demand. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join, normalize } from 'node:path';

/** What a request was. */
export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  status: number;
}

/** Answers a request in its own way and returns true, or leaves it to the folder. */
export type Misbehaviour = (
  request: IncomingMessage,
  response: ServerResponse,
) => boolean | undefined;

export class MirrorServer implements AsyncDisposable {
  /** `http://127.0.0.1:PORT/` */
  readonly url: string;
  readonly requests: SeenRequest[] = [];
  misbehave: Misbehaviour = () => false;
  readonly #server: Server;

  constructor(server: Server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  }

  /** Serves `root` with ETags and ranges. */
  static async start(root: string): Promise<MirrorServer> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const mirror = new MirrorServer(server);
    server.on('request', (request, response) => {
      const seen: SeenRequest = {
        method: request.method ?? '',
        path: new URL(request.url ?? '/', mirror.url).pathname,
        headers: request.headers,
        status: 0,
      };
      mirror.requests.push(seen);
      response.on('close', () => {
        seen.status = response.statusCode;
      });
      if (mirror.misbehave(request, response) === true) return;
      void serveFile(root, seen, response);
    });
    return mirror;
  }

  /** The paths that were asked for and answered with a body, in order. */
  served(): string[] {
    return this.requests
      .filter(({ status }) => status === 200 || status === 206)
      .map(({ path }) => path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

async function serveFile(root: string, seen: SeenRequest, response: ServerResponse): Promise<void> {
  const path = join(root, normalize(decodeURIComponent(seen.path)));
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile()) {
    response.writeHead(404).end('not here');
    return;
  }
  const etag = `"${found.size}-${found.mtimeMs}"`;
  const headers = { etag, 'last-modified': found.mtime.toUTCString(), 'accept-ranges': 'bytes' };
  if (seen.headers['if-none-match'] === etag) {
    response.writeHead(304, headers).end();
    return;
  }
  const range = /^bytes=(\d+)-$/.exec(seen.headers.range ?? '');
  const same = seen.headers['if-range'] === undefined || seen.headers['if-range'] === etag;
  const start = range !== null && same ? Number(range[1]) : 0;
  if (start > 0 && start >= found.size) {
    response.writeHead(416, { 'content-range': `bytes */${found.size}` }).end();
    return;
  }
  response.writeHead(start > 0 ? 206 : 200, {
    ...headers,
    'content-length': found.size - start,
    ...(start > 0 ? { 'content-range': `bytes ${start}-${found.size - 1}/${found.size}` } : {}),
  });
  createReadStream(path, { start }).pipe(response);
}
