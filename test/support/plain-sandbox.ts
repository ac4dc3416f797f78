import type { SandboxHost } from '../../src/host/libvirt/sandbox-host.ts';
import type { Capability } from '../../src/host/process/process.ts';
import type { StatePaths } from '../../src/host/state/paths.ts';
import type { SandboxProcess } from '../../src/sandbox/command/process.ts';
import { type SpawnOptions, startCommand } from '../../src/sandbox/command/start-command.ts';
import type { SandboxDomain } from '../../src/sandbox/domain/sandbox-domain.ts';
import { openSandbox } from '../../src/sandbox/open.ts';
import { commandPolicy } from '../../src/sandbox/policy/policy.ts';
import {
  type SandboxSpecification,
  type Surroundings,
  surroundingsOf,
} from '../../src/sandbox/policy/specification.ts';

/** A sandbox below the door: a test says what stands around its commands. */
export class PlainSandbox implements AsyncDisposable {
  readonly surroundings: Surroundings;
  readonly #domain: SandboxDomain;

  private constructor(domain: SandboxDomain, surroundings: Surroundings) {
    this.#domain = domain;
    this.surroundings = surroundings;
  }

  /** Binds and commands are root's. */
  static async open(host: SandboxHost, specification: SandboxSpecification): Promise<PlainSandbox> {
    const ids = { uid: 0, gid: 0 };
    const { domain } = await openSandbox(host, specification, { user: ids, caller: ids });
    return new PlainSandbox(domain, surroundingsOf(specification));
  }

  get initPid(): number {
    return this.#domain.channel.initPid;
  }

  get id(): string {
    return this.#domain.id;
  }

  spawn(argv: readonly string[], options: SpawnOptions): Promise<SandboxProcess> {
    return startCommand(this.#domain, argv, options);
  }

  close(): Promise<void> {
    return this.#domain.destroy();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** How a command of root's is started that is about something else than its rights. */
export async function asRoot(
  paths: StatePaths,
  sandbox: PlainSandbox,
  capabilities: readonly Capability[] = [],
): Promise<Pick<SpawnOptions, 'policy'>> {
  const request = { user: '0:0', capabilities, seccomp: 'default' };
  return { policy: await commandPolicy(paths, sandbox.surroundings, request) };
}
