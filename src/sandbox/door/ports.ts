import { once } from 'node:events';
import { createServer, Socket } from 'node:net';
import { some } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { attempt, hasErrno } from '../../host/calls/libc.ts';
import { awaitedLater } from '../../promise.ts';
import type { SandboxDomain } from '../domain/sandbox-domain.ts';
import { formatPublish, type PublishedPort } from '../policy/network.ts';

/** Ports of this host that lead into a sandbox, as long as somebody holds it. */
export class SandboxPorts {
  readonly #domain: SandboxDomain;
  readonly #isHosts: boolean;
  readonly #published = new Set<Publication>();

  /** @param isHosts whether the sandbox is in the host's network */
  constructor(domain: SandboxDomain, isHosts: boolean) {
    this.#domain = domain;
    this.#isHosts = isHosts;
  }

  /** All of them, or none, until what this returns is disposed of. @throws KilnError E_PUBLISH, E_MACHINE */
  async publish(ports: readonly PublishedPort[]): Promise<AsyncDisposable> {
    if (ports.length > 0 && this.#isHosts) {
      throw new KilnError('E_ARGUMENT', 'a sandbox in the host’s network has its ports already', {
        hint: 'leave out --publish, or --network host',
      });
    }
    const own: Publication[] = [];
    const close = async () => {
      for (const each of own) {
        this.#published.delete(each);
        await each[Symbol.asyncDispose]();
      }
    };
    try {
      for (const port of ports) {
        own.push(await publishPort(port, (inside) => this.#domain.ground.connect(inside)));
      }
      for (const each of own) this.#published.add(each);
      if (own.length > 0) this.#notePorts();
    } catch (error) {
      await close();
      throw error;
    }
    return {
      [Symbol.asyncDispose]: async () => {
        await close();
        // It may be gone by now.
        if (own.length > 0) attempt(() => this.#notePorts());
      },
    };
  }

  #notePorts(): void {
    const ports = [...this.#published].map(({ port }) => formatPublish(port));
    this.#domain.describe({ publish: some(ports) });
    this.#domain.writeRecord();
  }

  async close(): Promise<void> {
    const published = [...this.#published];
    this.#published.clear();
    for (const each of published) await each[Symbol.asyncDispose]();
    this.#domain.describe({ publish: undefined });
  }
}

/** Connections of one port at the same time; further ones are closed at once. */
const MAX_CONNECTIONS = 1024;

const WHY: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another program has it',
  EADDRNOTAVAIL: 'this host has no such address',
};

interface Publication extends AsyncDisposable {
  readonly port: PublishedPort;
}

/**
 * Forwards each connection to the sandbox's loopback, by a stream that `connect` opens there: the sandbox needs no
 * interface and can connect to nobody. Nobody reads what passes.
 * @throws KilnError E_PUBLISH
 */
async function publishPort(
  port: PublishedPort,
  connect: (port: number) => Promise<number>,
): Promise<Publication> {
  const { address, host, sandbox } = port;
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => {
    track(open, client);
    const connected = (fd: number) => {
      const inside = new Socket({ fd, allowHalfOpen: true, readable: true, writable: true });
      track(open, inside);
      inside.once('close', () => client.destroy());
      client.once('close', () => inside.destroy());
      if (client.destroyed) return void inside.destroy();
      client.pipe(inside);
      inside.pipe(client);
    };
    connect(sandbox)
      .then(connected)
      .catch(() => client.destroy());
  });
  server.maxConnections = MAX_CONNECTIONS;
  try {
    server.listen({ host: address, port: host });
    await once(server, 'listening');
  } catch (cause) {
    const why = Object.entries(WHY).find(([name]) => hasErrno(cause, name))?.[1];
    const what = `${formatPublish(port)}: cannot listen on ${address} port ${host}`;
    throw new KilnError('E_PUBLISH', why === undefined ? what : `${what}: ${why}`, {
      cause,
      details: { sandboxPort: sandbox },
      hint: `publish another port, as --publish HOSTPORT:${sandbox}; \`ss -ltnp\` shows who has one`,
    });
  }
  return {
    port,
    [Symbol.asyncDispose]: async () => {
      const closed = awaitedLater(once(server, 'close'));
      server.close();
      for (const socket of open) socket.destroy();
      await closed;
    },
  };
}

function track(open: Set<Socket>, socket: Socket): void {
  open.add(socket);
  socket.on('error', () => socket.destroy());
  socket.once('close', () => open.delete(socket));
}
