import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import type { SandboxLimits } from '../../sandbox/policy/specification.ts';
import { type ExecuteRequest, execute } from './execute.ts';
import { FRAME, onFrames, sendMessage, wired } from './frames.ts';
import type { Instance } from './instance.ts';

/** A client's request; the answer is `{ ok }` or `{ error }`. */
export type SupervisorRequest =
  | { readonly do: 'status' }
  /** Answered at once by a living supervisor. */
  | { readonly do: 'ping' }
  /** Answered when all units have started or failed. */
  | { readonly do: 'started' }
  | { readonly do: 'stop' }
  | { readonly do: 'reload' | 'restart'; readonly unit?: string }
  | { readonly do: 'limit'; readonly limits: SandboxLimits }
  | { readonly do: 'rotate' }
  | { readonly do: 'execute'; readonly command: ExecuteRequest };

/** The supervisor's parts that its server uses. */
export interface Supervised {
  /** Undefined until its sandbox is open. */
  readonly instance: () => Instance | undefined;
  /** Settles with the first start, or when there will be none. */
  readonly started: Promise<void>;
  readonly stop: () => void;
}

/** Returned instead of an answer: without a sandbox, a service counts as not running. */
const NO_SANDBOX = Symbol('no sandbox');

/** Listens for clients. Only root can reach the socket, because its folder is root's. */
export async function serveSupervisor(path: string, supervised: Supervised): Promise<Server> {
  await rm(path, { force: true });
  const server = createServer((client) => serve(client, supervised));
  server.listen(path);
  await once(server, 'listening');
  return server;
}

function serve(client: Socket, supervised: Supervised): void {
  client.on('error', () => client.destroy());
  const reply = (message: unknown) => {
    sendMessage(client, message);
    client.end();
  };
  let attached: ReturnType<typeof execute> | undefined;
  onFrames(client, ({ kind, body }) => {
    if (attached !== undefined) {
      attached.receive(kind, body);
      return;
    }
    if (kind !== FRAME.message) return;
    const request = JSON.parse(body.toString('utf8')) as SupervisorRequest;
    if (request.do === 'ping' || request.do === 'stop') {
      if (request.do === 'stop') supervised.stop();
      reply({ ok: null });
      return;
    }
    if (request.do === 'execute') {
      const instance = supervised.instance();
      if (instance === undefined) client.end();
      else attached = execute(instance.host, request.command, client);
      return;
    }
    answer(request, supervised).then(
      (ok) => (ok === NO_SANDBOX ? client.end() : reply({ ok: ok ?? null })),
      (error: unknown) => reply({ error: wired(error) }),
    );
  });
}

async function answer(
  request: Exclude<SupervisorRequest, { do: 'execute' | 'ping' | 'stop' }>,
  supervised: Supervised,
): Promise<unknown> {
  if (request.do === 'started') await supervised.started;
  const instance = supervised.instance();
  if (instance === undefined) return NO_SANDBOX;
  switch (request.do) {
    case 'status':
    case 'started':
      return await instance.status();
    case 'limit':
      return await instance.limit(request.limits);
    case 'rotate':
      return instance.host.log.rotate();
    case 'reload':
      for (const runner of instance.chosen(request.unit)) await runner.reload();
      return null;
    case 'restart':
      await instance.restart(request.unit);
      return null;
  }
}
