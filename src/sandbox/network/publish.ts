import { once } from 'node:events';
import { createServer, Socket } from 'node:net';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { awaitedLater } from '../../promise.ts';
import { formatPublish, type PublishedPort } from '../policy/network.ts';

/** Connections of one port at the same time; further ones are closed at once. */
const MAX_CONNECTIONS = 1024;

const WHY: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another program has it',
  EADDRNOTAVAIL: 'this host has no such address',
};

export interface Publication extends AsyncDisposable {
  readonly port: PublishedPort;
}

/**
 * Forwards each connection to the sandbox's loopback, by a stream that `connect` opens there: the sandbox needs no
 * interface and can connect to nobody. Nobody reads what passes.
 * @throws KilnError E_PUBLISH
 */
export async function publishPort(
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
