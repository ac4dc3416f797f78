import type { SandboxLimits } from '../../sandbox/policy/specification.ts';
import type { InstanceFiles } from '../instance-files.ts';
import { isSupervised } from '../lifecycle/stop.ts';
import type { StoredService } from '../lifecycle/store.ts';
import { askSupervisor } from '../supervisor/supervisor-client.ts';
import type { ServiceDefinition, ServiceFile } from './definition.ts';
import { changeDefinition } from './definition-file.ts';

/** Settings that are changed on a running service at once. */
const LIVE = ['memory', 'cpus', 'pids'] as const;

/** Which settings are in force at once, and which with the next start. */
export interface ChangeReport {
  readonly inForce: readonly string[];
  readonly atRestart: readonly string[];
}

/**
 * Changes settings of a service in its file, and limits on its sandbox if it runs: both, or neither. A
 * value of null removes a setting. Throws E_RECIPE for what cannot be, E_LIMIT.
 */
export async function changeService(
  { files, definition }: StoredService,
  changes: { readonly [Key in keyof ServiceFile]?: ServiceFile[Key] | null },
): Promise<ChangeReport> {
  const changed = await changeDefinition(files.definition, (document) => {
    for (const [key, value] of Object.entries(changes)) {
      if (value === undefined) continue;
      if (value === null) document.delete(key);
      else document.set(key, value);
    }
  });
  const keys = Object.keys(changes);
  const supervised = await isSupervised(files);
  // What is taken away is not: a limit of the kernel's has no value that says "none" everywhere.
  const live = LIVE.filter((key) => keys.includes(key) && changed.definition[key] !== undefined);
  const limited =
    supervised && live.length > 0 && (await limit(files, changed.definition, definition, live));
  await changed.store();
  const inForce = limited ? live : [];
  const rest = keys.filter((key) => !inForce.some((name) => name === key));
  return { inForce, atRestart: supervised ? rest : [] };
}

/**
 * Sets limits of a service that runs. When one fails, the others are again what they were, unless they
 * were none: those stay until the sandbox ends. False when its supervisor does not listen (yet):
 * it will read them in its file. Throws E_LIMIT.
 */
async function limit(
  files: InstanceFiles,
  wanted: ServiceDefinition,
  before: ServiceDefinition,
  keys: readonly (typeof LIVE)[number][],
): Promise<boolean> {
  const of = (definition: ServiceDefinition): SandboxLimits =>
    Object.fromEntries(
      keys.map((key) => [key, definition[key]]).filter(([, value]) => value !== undefined),
    );
  try {
    const answer = await askSupervisor<null>(files, { do: 'limit', limits: of(wanted) });
    return answer !== undefined;
  } catch (error) {
    // Of several, those before the one that failed are in force.
    await askSupervisor(files, { do: 'limit', limits: of(before) }).catch(() => undefined);
    throw error;
  }
}
