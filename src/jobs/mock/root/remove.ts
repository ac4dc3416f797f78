import { KilnError } from '../../../errors.ts';
import { installedPackages } from './installed.ts';
import type { MockRoot } from './root.ts';
import { changing, rpmFailed, withPackages } from './transaction.ts';

export interface RemoveRequest {
  /** Names, or whatever else `rpm -e` takes. */
  readonly packages: readonly string[];
  readonly signal?: AbortSignal | undefined;
  readonly log: (text: string) => void;
}

/** More rounds of dependents are a mistake. */
const MAX_ROUNDS = 50;

/** Without rpm the root cannot be changed any more. */
const PROTECTED = 'rpm';

/**
 * Removes packages and those that need them, as `dnf remove` does. The root's own rpm finds and removes them.
 * @returns the removed packages. @throws KilnError E_MOCK_PACKAGES: not installed, protected, or rpm fails.
 */
export async function removePackages(
  root: MockRoot,
  { packages, signal, log }: RemoveRequest,
): Promise<readonly string[]> {
  const onOutput = () => undefined;
  return await withPackages(root, { signal, onOutput }, async (session) => {
    const wanted = new Set(packages);
    for (let round = 0; ; round++) {
      const test = await session.rpm(['-e', '--test', ...wanted]);
      if (test.exitCode === 0) break;
      const more = dependents(test.output).filter((name) => !wanted.has(name));
      if (more.length === 0 || round === MAX_ROUNDS) {
        throw rpmFailed('the packages cannot be removed', test);
      }
      for (const name of more) wanted.add(name);
    }
    const before = await installedPackages(session.sandbox, signal);
    for (const name of wanted) log(`Removing ${name}\n`);
    const names = new Set(wanted);
    if (before.some(({ name, nevra }) => name === PROTECTED && isOneOf(names, name, nevra))) {
      throw new KilnError(
        'E_MOCK_PACKAGES',
        `${PROTECTED} would be removed, and without it no package can be installed or removed`,
        { hint: 'make a root without it with --init from another configuration' },
      );
    }
    await changing(root, async () => {
      const result = await session.rpm(['-e', ...wanted]);
      if (result.exitCode === 0) return;
      await root.note({ changing: false });
      throw rpmFailed('the packages cannot be removed', result);
    });
    const left = new Set((await installedPackages(session.sandbox, signal)).map((it) => it.nevra));
    const known = await root.packages();
    await root.setPackages(known.filter(({ nevra }) => left.has(nevra)));
    return before.map(({ nevra }) => nevra).filter((nevra) => !left.has(nevra));
  });
}

/** The packages in rpm's messages `X is needed by (installed) NEVRA`. */
function dependents(output: string): string[] {
  return [...output.matchAll(/ is needed by \(installed\) (\S+)/g)].map(([, name]) => name ?? '');
}

function isOneOf(names: ReadonlySet<string>, name: string, nevra: string): boolean {
  return names.has(name) || names.has(nevra) || names.has(nevra.replace(/-\d+:/, '-'));
}
