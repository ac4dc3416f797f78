import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { closeDescriptor, createPipe } from '../../src/kernel/descriptor.ts';
import { connect } from '../../src/libvirt/connect.ts';
import { Box, startDomain } from '../../src/sandbox/box.ts';
import {
  type Capability,
  capabilityMask,
  capabilityNames,
} from '../../src/sandbox/capabilities.ts';
import { failureWords } from '../../src/sandbox/failures.ts';
import { planFilesystem } from '../../src/sandbox/filesystem.ts';
import { securityModule } from '../../src/sandbox/labels/module.ts';
import { labelFile } from '../../src/sandbox/labels/relabel.ts';
import { type LabelRequest, labelOperation } from '../../src/sandbox/labels/request.ts';
import type { SeccompFilter } from '../../src/sandbox/seccomp/profile.ts';
import { encodeRequest } from '../../src/sandbox/wire/encode.ts';
import { encodeExec, type LandlockWall, type ResourceLimit } from '../../src/sandbox/wire/exec.ts';
import type { SetupOperation } from '../../src/sandbox/wire/table.ts';
import type { BusyboxState } from './busybox-state.ts';
import { sandboxSpecification } from './specification.ts';

/** How a box differs from what kiln makes. */
export interface BareBoxOptions {
  /** Kinds of setup operations that are left out. */
  readonly without?: readonly SetupOperation['op'][];
  readonly network?: 'private' | 'host';
}

/** What a command in a bare box has; nothing is taken from it that is not said here. */
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

/** All that the init of a box has itself. */
export const ALL_CAPABILITIES = capabilityNames((1n << 41n) - 1n).filter(
  (name) => !TAKEN.includes(name),
);

/** SELinux, which is no part of what such a box shows, holds its commands by nothing: bare.cil. */
function bareLabel(): LabelRequest {
  if (securityModule() !== 'selinux') return { kind: 'auto' };
  return { kind: 'static', label: 'system_u:system_r:kiln_bare_t:s0:c1022,c1023' };
}

/**
 * A box that kiln's own checks have not looked at: the same domain and the same init, but asked for
 * less than kiln would ask for. It shows what a layer is good for by being without it.
 */
export class BareBox implements AsyncDisposable {
  readonly #box: Box;
  readonly #close: () => Promise<void>;
  #nextId = 1;

  private constructor(box: Box, close: () => Promise<void>) {
    this.#box = box;
    this.#close = close;
  }

  static async open(
    { paths, env }: BusyboxState,
    tree: string,
    { without = [], network = 'private' }: BareBoxOptions = {},
  ): Promise<BareBox> {
    const connection = await connect({ paths, env });
    const options = { network, autodestroy: true, label: bareLabel() } as const;
    const started = await startDomain(paths, connection, options);
    const box = await Box.own(paths, started, async () => connection);
    const ids = { uid: 0, gid: 0 };
    const specification = sandboxSpecification({ root: tree, network });
    using plan = planFilesystem(
      specification,
      { range: box.range, initPid: box.channel.initPid },
      { user: ids, caller: ids, groups: [] },
      paths,
    );
    const operations = plan.operations.filter(({ op }) => !without.includes(op));
    const { labels } = box.record;
    const label = labels?.module === 'selinux' ? labelOperation(labels) : [];
    box.channel.send(encodeRequest('prepare', label));
    box.channel.send(encodeRequest('setup', [...label, ...operations]), plan.fds);
    await box.channel.wait((answer) => {
      if (answer.type === 'failed') throw new Error(`${answer.failure}: ${answer.error}`);
      return answer.type === 'ready' ? true : undefined;
    });
    return new BareBox(box, () => connection.close());
  }

  /** SELinux: nothing of the label of `path` on the host is in the way of this box. */
  admit(path: string): void {
    const { labels } = this.#box.record;
    if (labels?.files !== undefined) labelFile(path, labels.files);
  }

  /** Runs a command to its end; gives what it wrote to standard output. */
  async run(argv: readonly string[], command: BareCommand): Promise<string> {
    const id = this.#nextId++;
    const [input, output] = [createPipe(this.#box.range.base), createPipe(this.#box.range.base)];
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
      // Such boxes show what is possible without a layer; the init would refuse.
      openSockets: true,
      limits: command.limits ?? [],
      umask: 0o022,
    });
    const ended = this.#box.channel.wait((answer) => {
      if (answer.type === 'failed' && answer.id === id) throw new Error(failureWords(answer));
      return answer.type === 'exited' && answer.id === id ? true : undefined;
    });
    ended.catch(() => undefined);
    this.#box.channel.send(message, [command.stdin ?? input.read, output.write, output.write]);
    for (const fd of [input.read, output.write]) closeDescriptor(fd);
    closeSync(input.write);
    const [written] = await Promise.all([text(stdout), ended]);
    return written;
  }

  /** Sends the init bytes of any kind, and waits for the end of the sandbox; gives the error that tells of it. */
  async endWith(bytes: Buffer): Promise<unknown> {
    const { channel } = this.#box;
    const gone = channel.wait(() => undefined).catch((error: unknown) => error);
    channel.send(bytes);
    return await gone;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#box.destroy();
    await this.#close();
  }
}
