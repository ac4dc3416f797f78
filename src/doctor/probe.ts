import { join } from 'node:path';
import { runTool } from '../kernel/child-process.ts';
import { errnoName } from '../kernel/libc.ts';
import { patience } from '../kernel/wait-for.ts';
import { packageRoot } from '../state/package-root.ts';

/** The guest init, as the build makes it. */
export function initPath(): string {
  return join(packageRoot(), 'dist/kiln-init');
}

/** How long libvirtd may be silent for a check, ms: who asks what is wrong is not to wait a minute. */
export function libvirtPatience(): number {
  return Math.min(10_000, patience());
}

/** What the host refused, and with which errno. */
export interface Refusal {
  readonly name: string;
  readonly errno: string;
}

/**
 * Has the guest init try something outside of a sandbox: src/guest/probe.c. Throws when it cannot be
 * executed.
 */
export async function probe(what: 'calls' | 'mounts'): Promise<Refusal[]> {
  const { stdout, failure } = await runTool(initPath(), [what], { timeout: 30_000 });
  if (failure !== undefined) throw new Error(`${initPath()} ${what}: ${failure}`);
  return stdout.split('\n').flatMap((line) => {
    const [, name, errno] = /^(\w+) (\d+)$/.exec(line) ?? [];
    return name === undefined ? [] : [{ name, errno: errnoName(Number(errno)) }];
  });
}

/** `keyctl (EPERM), fsopen (ENOSYS)`. */
export function listed(refusals: readonly Refusal[]): string {
  return refusals.map(({ name, errno }) => `${name} (${errno})`).join(', ');
}
