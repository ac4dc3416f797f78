import { randomUUID } from 'node:crypto';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { execa } from 'execa';

/** An abstract unix socket of the host's, with somebody who listens there. */
export interface AbstractSocket extends AsyncDisposable {
  readonly name: string;
}

/** Listens on one. */
export async function abstractSocket(): Promise<AbstractSocket> {
  const name = `kiln-test-${randomUUID()}`;
  const server = createServer((client) => client.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(`\0${name}`, resolve);
  });
  return {
    name,
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}

/** Compiles what connects to one and says how that went: see abstract-probe.c. */
export async function compileAbstractProbe(target: string): Promise<void> {
  const source = join(import.meta.dirname, 'abstract-probe.c');
  await execa('cc', ['-std=gnu17', '-O1', '-Wall', '-Werror', '-static', '-o', target, source]);
}

/** What the probe says behind the wall. */
export const CLOSED = 'host=EPERM own=0';
