import type { Socket } from 'node:net';
import { FrameServer } from '../../host/sockets/frame-server.ts';
import { FRAME, type ReceivedFrame, sendMessage, wired } from '../../host/sockets/frames.ts';
import type { HandOver, SandboxProcess } from '../../sandbox/command/process.ts';
import type { ExecuteRequest } from '../../sandbox/door/plan.ts';
import type { ProcessesAnswer } from '../../sandbox/door/visit.ts';
import { attend } from '../../sandbox/door/visitors.ts';
import type { Instance } from './instance.ts';
import type { SupervisorPong, SupervisorRequest } from './supervisor-client.ts';
import { isRoot, rootCapabilities, type UnitHost } from './unit-host.ts';

interface Supervised {
  readonly instance: () => Instance | undefined;
  readonly started: Promise<void>;
  readonly stop: () => void;
  readonly isStopping: () => boolean;
}

/** Returned instead of an answer: without a sandbox, a service counts as not running. */
const NO_SANDBOX = Symbol('no sandbox');

export function serveSupervised(path: string, supervised: Supervised): FrameServer {
  return new FrameServer(path, (client, fd) => serve(client, fd, supervised));
}

function serve(client: Socket, fd: number, supervised: Supervised): (frame: ReceivedFrame) => void {
  const reply = (message: unknown) => {
    sendMessage(client, message);
    client.end();
  };
  let attached: ReturnType<typeof attend> | undefined;
  return (frame) => {
    if (attached !== undefined) return attached(frame);
    if (frame.kind !== FRAME.message) return;
    const request = JSON.parse(frame.body.toString('utf8')) as SupervisorRequest;
    if (request.do === 'ping' || request.do === 'stop') {
      if (request.do === 'stop') supervised.stop();
      return reply({ ok: { stopping: supervised.isStopping() } satisfies SupervisorPong });
    }
    if (request.do === 'execute') {
      const instance = supervised.instance();
      if (instance === undefined) client.end();
      else {
        const { host } = instance;
        attached = attend(client, fd, (handOver) => start(host, request.command, handOver));
      }
      return;
    }
    answer(request, supervised).then(
      (ok) => (ok === NO_SANDBOX ? client.end() : reply({ ok: ok ?? null })),
      (error: unknown) => reply({ error: wired(error) }),
    );
  };
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
    case 'processes':
      return { processes: await instance.host.sandbox.tree.processes() } satisfies ProcessesAnswer;
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

async function start(
  host: UnitHost,
  request: ExecuteRequest,
  handOver: HandOver,
): Promise<SandboxProcess> {
  const { argv, user = '0:0', env, workdir = '/', terminal } = request;
  const capabilities = isRoot(user) ? rootCapabilities(host) : [];
  const plan = { argv, env: { ...host.environment, ...env }, workdir, time: {} } as const;
  const policy = { user, capabilities, seccomp: host.seccomp };
  const command = { ...plan, policy, leftovers: 'left' } as const;
  const started = await host.sandbox.start(command, { terminal, handOver });
  return started.process;
}
