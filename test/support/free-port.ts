import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';

const given = new Set<number>();

/**
 * A TCP port of the host's loopback that nobody has at the moment, and that nobody gets without
 * asking for it: it lies below those that the kernel gives to whoever asks for any.
 */
export async function freePort(): Promise<number> {
  const range = await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8');
  const end = Number.parseInt(range, 10);
  const start = Math.max(1024, Math.floor(end / 2));
  for (;;) {
    const port = randomInt(start, end);
    if (given.has(port)) continue;
    const server = createServer().listen(port, '127.0.0.1');
    try {
      await once(server, 'listening');
    } catch {
      continue;
    }
    given.add(port);
    server.close();
    await once(server, 'close');
    return port;
  }
}
