import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { closeDescriptor, createPipe } from '../../src/host/calls/descriptor.ts';
import { connect } from '../../src/host/libvirt/connection.ts';
import type { Capability } from '../../src/host/process/process.ts';
import { failureWords } from '../../src/sandbox/command/failures.ts';
import { SandboxDomain } from '../../src/sandbox/domain/sandbox-domain.ts';
import { startDomain } from '../../src/sandbox/domain/start-domain.ts';
import { labelOperation } from '../../src/sandbox/labels/labels.ts';
import { securityModule } from '../../src/sandbox/labels/module.ts';
import { labelFile } from '../../src/sandbox/labels/relabel.ts';
import { planFilesystem } from '../../src/sandbox/policy/filesystem.ts';
import type { LabelRequest } from '../../src/sandbox/policy/label-request.ts';
import { capabilityMask, capabilityNames } from '../../src/sandbox/policy/specification.ts';
import type { SeccompFilter } from '../../src/sandbox/seccomp/profile.ts';
import {
  encodeExec,
  encodeRequest,
  type LandlockWall,
  type ResourceLimit,
} from '../../src/sandbox/wire/codec.ts';
import type { SetupOperation } from '../../src/sandbox/wire/table.ts';
import type { BusyboxState } from './busybox-state.ts';
import { sandboxSpecification } from './specification.ts';

/** How a sandbox differs from what kiln makes. */
export interface BareSandboxOptions {
  /** Kinds of setup operations that are left out. */
  readonly without?: readonly SetupOperation['op'][];
  readonly network?: 'private' | 'host';
}

/** What a command in a bare sandbox has; nothing is taken from it that is not said here. */
export interface BareCommand {
  readonly user: string;
  readonly capabilities: readonly Capability[];
  readonly seccomp?: SeccompFilter;
  readonly landlock?: readonly LandlockWall[];
  readonly limits?: readonly ResourceLimit[];
  readonly environment?: readonly string[];
  /** A descriptor of the host's as standard input: kiln itself never does that. */
  readonly stdin?: number;
}

/** What libvirt takes from every container (its `default` policy), whatever the init would keep. */
const TAKEN: readonly Capability[] = [
  'SYS_MODULE',
  'SYS_TIME',
  'MKNOD',
  'AUDIT_CONTROL',
  'MAC_ADMIN',
];

/** All that the init of a sandbox has itself. */
export const ALL_CAPABILITIES = capabilityNames((1n << 41n) - 1n).filter(
  (name) => !TAKEN.includes(name),
);

/** SELinux, which is no part of what such a sandbox shows, holds its commands by nothing: bare.cil. */
function bareLabel(): LabelRequest {
  if (securityModule() !== 'selinux') return { kind: 'auto' };
  return { kind: 'static', label: 'system_u:system_r:kiln_bare_t:s0:c1022,c1023' };
}

/**
 * A sandbox that kiln's own checks have not looked at: the same domain and the same init, but asked for
 * less than kiln would ask for. It shows what a layer is good for by being without it.
 */
export class BareSandbox implements AsyncDisposable {
  readonly #sandbox: SandboxDomain;
  readonly #close: () => Promise<void>;
  #nextId = 1;

  private constructor(sandbox: SandboxDomain, close: () => Promise<void>) {
    this.#sandbox = sandbox;
    this.#close = close;
  }

  static async open(
    { paths, env }: BusyboxState,
    tree: string,
    { without = [], network = 'private' }: BareSandboxOptions = {},
  ): Promise<BareSandbox> {
    const connection = await connect({ paths, env });
    const options = { network, label: bareLabel() } as const;
    const started = await startDomain(paths, connection, options);
    const sandbox = await SandboxDomain.create(paths, started, async () => connection);
    const ids = { uid: 0, gid: 0 };
    const specification = sandboxSpecification({ root: tree, network });
    using plan = planFilesystem(
      specification,
      { range: sandbox.range, initPid: sandbox.channel.initPid },
      { user: ids, caller: ids, groups: [] },
      paths,
    );
    const operations = plan.operations.filter(({ op }) => !without.includes(op));
    const { labels } = sandbox.record;
    const label = labels?.module === 'selinux' ? labelOperation(labels) : [];
    sandbox.channel.send(encodeRequest('prepare', label));
    sandbox.channel.send(encodeRequest('setup', [...label, ...operations]), plan.fds);
    await sandbox.channel.wait((answer) => {
      if (answer.type === 'failed') throw new Error(`${answer.failure}: ${answer.error}`);
      return answer.type === 'ready' ? true : undefined;
    });
    return new BareSandbox(sandbox, () => connection.close());
  }

  /** SELinux: nothing of the label of `path` on the host is in the way of this sandbox. */
  admit(path: string): void {
    const { labels } = this.#sandbox.record;
    if (labels?.files !== undefined) labelFile(path, labels.files);
  }

  /** Runs a command to its end; gives what it wrote to standard output. */
  async run(argv: readonly string[], command: BareCommand): Promise<string> {
    const id = this.#nextId++;
    const [input, output] = [
      createPipe(this.#sandbox.range.base),
      createPipe(this.#sandbox.range.base),
    ];
    const stdout = new Socket({ fd: output.read, readable: true, writable: false });
    const { plain, asking } = command.seccomp ?? {};
    const message = encodeExec({
      id,
      argv,
      environment: ['PATH=/bin', ...(command.environment ?? [])],
      workdir: '/',
      user: command.user,
      capabilities: capabilityMask(command.capabilities),
      ...(plain === undefined ? {} : { seccomp: asking ?? plain }),
      ...(plain === undefined || asking === undefined ? {} : { verdicts: plain }),
      landlock: command.landlock ?? [],
      // Such sandboxes show what is possible without a layer; the init would refuse.
      openSockets: true,
      limits: command.limits ?? [],
      umask: 0o022,
    });
    const ended = this.#sandbox.channel.wait((answer) => {
      if (answer.type === 'failed' && answer.id === id) throw new Error(failureWords(answer));
      return answer.type === 'exited' && answer.id === id ? true : undefined;
    });
    ended.catch(() => undefined);
    this.#sandbox.channel.send(message, [command.stdin ?? input.read, output.write, output.write]);
    for (const fd of [input.read, output.write]) closeDescriptor(fd);
    closeSync(input.write);
    const [written] = await Promise.all([text(stdout), ended]);
    return written;
  }

  /** Sends the init bytes of any kind, and waits for the end of the sandbox; gives the error that tells of it. */
  async endWith(bytes: Buffer): Promise<unknown> {
    const { channel } = this.#sandbox;
    const gone = channel.wait(() => undefined).catch((error: unknown) => error);
    channel.send(bytes);
    return await gone;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#sandbox.destroy();
    await this.#close();
  }
}
