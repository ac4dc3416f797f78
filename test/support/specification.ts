import { allowedMissing } from '../../src/sandbox/policy/layers.ts';
import type { SandboxSpecification } from '../../src/sandbox/policy/specification.ts';

/** A sandbox as `kiln run` has it, nothing shared, nothing reachable, but for what is `wanted`. */
export function sandboxSpecification(
  wanted: Pick<SandboxSpecification, 'root'> & Partial<SandboxSpecification>,
): SandboxSpecification {
  return {
    isolation: 'container',
    privateTmp: true,
    hostname: 'kiln',
    names: true,
    network: 'private',
    binds: [],
    allowHostWrite: false,
    protectedPaths: [],
    volumes: [],
    readonlyPaths: [],
    readonlyRoot: false,
    guestBinds: [],
    tmpfs: [],
    files: [],
    secrets: [],
    namespaces: 0,
    allowMissing: allowedMissing(process.env),
    disk: 2 ** 30,
    limits: {},
    nested: false,
    boot: false,
    label: { kind: 'auto' },
    ...wanted,
  };
}
