import { once } from 'node:events';
import { createServer, type Server, Socket } from 'node:net';
import { KilnError } from '../errors.ts';
import { closeDescriptor } from '../kernel/descriptor.ts';
import { connectLoopback } from '../kernel/unix-socket.ts';
import { awaitedLater } from '../promise.ts';
import type { BoxControl } from '../sandbox/control.ts';
import type { PublishedPort } from './definition.ts';

/** Connections at a time through one published port. */
const MAX_CONNECTIONS = 4096;

/** A port of the host that leads into a box. */
export interface Publication extends AsyncDisposable {
  readonly port: PublishedPort;
}

/**
 * Listens on the host and passes each connection on to the loopback of the box, through a socket
 * that the box's init made: the box needs no interface and can reach nobody.
 * Throws E_PUBLISH.
 */
export async function publishPort(
  service: string,
  control: BoxControl,
  port: PublishedPort,
): Promise<Publication> {
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => {
    track(open, client);
    passOn(control, port.box, client, open).catch(() => client.destroy());
  });
  server.maxConnections = MAX_CONNECTIONS;
  await listen(service, server, port);
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

async function listen(
  service: string,
  server: Server,
  { address, host, box }: PublishedPort,
): Promise<void> {
  try {
    server.listen({ host: address, port: host });
    await once(server, 'listening');
  } catch (cause) {
    throw new KilnError('E_PUBLISH', `cannot listen on ${address} port ${host}`, {
      cause,
      hint: `publish another port: \`kiln service set ${service} --publish HOSTPORT:${box}\`, or end who has it`,
    });
  }
}

async function passOn(
  control: BoxControl,
  port: number,
  client: Socket,
  open: Set<Socket>,
): Promise<void> {
  const inside = await connect(control, port);
  track(open, inside);
  inside.once('close', () => client.destroy());
  client.once('close', () => inside.destroy());
  client.pipe(inside);
  inside.pipe(client);
}

async function connect(control: BoxControl, port: number): Promise<Socket> {
  const fd = await control.socket('ipv4');
  try {
    connectLoopback(fd, 'ipv4', port);
    return new Socket({ fd, allowHalfOpen: true, readable: true, writable: true });
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
}

function track(open: Set<Socket>, socket: Socket): void {
  open.add(socket);
  socket.on('error', () => socket.destroy());
  socket.once('close', () => open.delete(socket));
}
