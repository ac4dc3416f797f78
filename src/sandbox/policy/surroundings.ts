import type { OptionalLayer } from './layers.ts';
import type { SandboxSpecification } from './specification.ts';

/**
 * What of a sandbox decides which walls its commands need. It is always made from the sandbox's own
 * specification, and it is kept with a kept sandbox: whoever starts a command cannot forget a part.
 */
export interface Surroundings {
  /** Commands are in the host's network namespace. */
  readonly hostNetwork: boolean;
  /** Commands may mount: `--profile nested`, or a systemd that boots. */
  readonly mounts: boolean;
  /** Commands may make user namespaces, in which they have every capability. */
  readonly userNamespaces: boolean;
  /** Commands can write to a folder or file of the host. */
  readonly hostFiles: boolean;
  /** The caller confirms what is dangerous of that. */
  readonly allowHostWrite: boolean;
  /** Layers that need not be there where the host cannot give them. */
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
