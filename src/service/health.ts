import { Agent, get, type IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { closeDescriptor } from '../kernel/descriptor.ts';
import { connectLoopback } from '../kernel/inet-socket.ts';
import { awaitedLater } from '../promise.ts';
import { ROOT_CAPABILITIES } from '../sandbox/capabilities.ts';
import { commandPolicy } from '../sandbox/policy.ts';
import type { ServiceDefinition } from './definition.ts';
import { endText } from './failure.ts';
import { endOf, type UnitHost } from './unit-host.ts';

export type HealthCheck = NonNullable<ServiceDefinition['health']>;

/** What one check found: undefined is healthy, else what is wrong. */
export async function checkHealth(host: UnitHost, check: HealthCheck): Promise<string | undefined> {
  try {
    if (check.command !== undefined) return await checkCommand(host, check.command, check.timeout);
    return await checkHttp(host, check.http ?? ':80/', check.timeout);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

async function checkCommand(
  host: UnitHost,
  argv: readonly string[],
  timeout: number,
): Promise<string | undefined> {
  const command = await host.sandbox.spawn(argv, {
    policy: await commandPolicy(host.paths, host.sandbox.surroundings, {
      user: '0:0',
      capabilities: ROOT_CAPABILITIES,
      seccomp: 'default',
    }),
    env: host.environment,
  });
  const ended = awaitedLater(endOf(command));
  command.stdin.end();
  let said = '';
  for (const stream of [command.stdout, command.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      if (said.length < 200) said += chunk.toString('latin1').slice(0, 200);
    });
  }
  const over = new AbortController();
  const late = awaitedLater(
    sleep(timeout, undefined, { signal: over.signal }).then(
      () => {
        command.kill('SIGKILL');
        return true;
      },
      () => false,
    ),
  );
  const end = await ended;
  over.abort();
  if (await late) return `no answer in ${timeout / 1000} s`;
  return end.exitCode === 0 ? undefined : `${endText(end)} ${said.trim()}`.trim();
}

async function checkHttp(
  host: UnitHost,
  where: string,
  timeout: number,
): Promise<string | undefined> {
  const [, port = '80', path = '/'] = /^:(\d+)(\/\S*)?$/.exec(where) ?? [];
  const fd = await host.control.socket('ipv4');
  let socket: Socket;
  try {
    connectLoopback(fd, 'ipv4', Number(port));
    socket = new Socket({ fd, readable: true, writable: true });
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
  const agent = new Agent();
  agent.createConnection = () => socket;
  try {
    const status = await new Promise<number>((resolve, reject) => {
      const answered = (response: IncomingMessage) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      };
      const signal = AbortSignal.timeout(timeout);
      const request = get(
        { agent, path, host: 'localhost', signal, maxHeaderSize: 65536 },
        answered,
      );
      request.once('error', (error) =>
        reject(signal.aborted ? new Error(`no answer in ${timeout / 1000} s`) : error),
      );
    });
    return status >= 200 && status < 400 ? undefined : `HTTP status ${status}`;
  } finally {
    socket.destroy();
  }
}
