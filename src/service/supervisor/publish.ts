import { hash } from 'node:crypto';
import { once } from 'node:events';
import { constants, openSync, readSync } from 'node:fs';
import { createServer, Socket } from 'node:net';
import { hostname } from 'node:os';
import { KilnError } from '../../errors.ts';
import { closeDescriptor, closing } from '../../host/calls/descriptor.ts';
import { hasErrno, readText } from '../../host/calls/libc.ts';
import { openat2, RESOLVE_IN_ROOT } from '../../host/files/at.ts';
import { connectLoopback } from '../../host/sockets/unix-socket.ts';
import { awaitedLater } from '../../promise.ts';
import type { SandboxControl } from '../../sandbox/command/control.ts';
import { virtualMac } from '../../sandbox/policy/network.ts';
import type { PublishedPort, ServiceNetwork } from '../definition/definition.ts';
import { replaceFileIn } from '../definition/definition-file.ts';
import type { InstanceFiles } from '../lifecycle/store.ts';

const MAX_CONNECTIONS = 4096;

export type Publication = Awaited<ReturnType<typeof publishPort>>;

/**
 * Forwards each connection to the sandbox's loopback, through a socket that the sandbox's init made: the
 * sandbox needs no interface and can connect to nobody. Throws E_PUBLISH.
 */
export async function publishPort(service: string, control: SandboxControl, port: PublishedPort) {
  const { address, host, sandbox } = port;
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (client) => {
    track(open, client);
    const connected = (inside: Socket) => {
      track(open, inside);
      inside.once('close', () => client.destroy());
      client.once('close', () => inside.destroy());
      client.pipe(inside);
      inside.pipe(client);
    };
    connectInside(control, sandbox)
      .then(connected)
      .catch(() => client.destroy());
  });
  server.maxConnections = MAX_CONNECTIONS;
  try {
    server.listen({ host: address, port: host });
    await once(server, 'listening');
  } catch (cause) {
    throw new KilnError('E_PUBLISH', `cannot listen on ${address} port ${host}`, {
      cause,
      hint: `publish another port: \`kiln service set ${service} --publish HOSTPORT:${sandbox}\`, or stop the program that has the port`,
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

export async function connectInside(control: SandboxControl, port: number): Promise<Socket> {
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

const MARK = '# Made by kiln from what DHCP said.\n';

/** Unless a person wrote one. The tree is hostile. */
export function writeNameServers(etc: string, servers: readonly string[]): void {
  using directory = closing(openSync(etc, constants.O_RDONLY | constants.O_DIRECTORY));
  if (servers.length === 0 || !isOurs(directory.fd)) return;
  const lines = servers.slice(0, 3).map((server) => `nameserver ${server}\n`);
  replaceFileIn(directory.fd, 'resolv.conf', MARK + lines.join(''));
}

function isOurs(directory: number): boolean {
  try {
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    using file = closing(openat2(directory, 'resolv.conf', { flags, resolve: RESOLVE_IN_ROOT }));
    const begin = Buffer.alloc(MARK.length);
    const length = readSync(file.fd, begin);
    return length === 0 || begin.toString('utf8', 0, length) === MARK;
  } catch (error) {
    return hasErrno(error, 'ENOENT');
  }
}

/** The same at each start, because networks identify a service by it, but different on each host. */
export function networkMac({ mac }: ServiceNetwork, { directory }: InstanceFiles): string {
  if (mac !== undefined) return mac;
  const identity = [readText('/etc/machine-id') ?? '', hostname(), directory].join('\n');
  return virtualMac(hash('sha256', identity, 'buffer').subarray(0, 3));
}
