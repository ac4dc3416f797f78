import type { OptionalLayer } from './layers.ts';
import type { SandboxSpecification } from './specification.ts';

/**
 * What decides which walls a sandbox's commands need. It is always made from the sandbox's own specification
 * and kept with a kept sandbox, so a caller that starts a command cannot forget a part.
 */
export interface Surroundings {
  /** Whether commands are in the host's network namespace. */
  readonly hostNetwork: boolean;
  /** Whether commands may mount: `--profile nested`, or a systemd that boots. */
  readonly mounts: boolean;
  /** Whether commands may make user namespaces, in which they have every capability. */
  readonly userNamespaces: boolean;
  /** Whether commands can write to a file or folder of the host. */
  readonly hostFiles: boolean;
  /** Whether the caller confirmed dangerous writable binds. */
  readonly allowHostWrite: boolean;
  /** Layers that may be missing on this host. */
  readonly allowMissing: readonly OptionalLayer[];
}

/** The surroundings of every command in a sandbox. */
export function surroundingsOf(
  specification: Pick<
    SandboxSpecification,
    'network' | 'nested' | 'boot' | 'namespaces' | 'binds' | 'allowHostWrite' | 'allowMissing'
  >,
): Surroundings {
  const { network, nested, boot, namespaces, binds, allowHostWrite, allowMissing } = specification;
  return {
    hostNetwork: network === 'host',
    mounts: nested || boot,
    userNamespaces: nested || namespaces !== 0,
    hostFiles: binds.some(({ readonly, own }) => !readonly && own !== true),
    allowHostWrite,
    allowMissing,
  };
}
