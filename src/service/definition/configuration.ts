import type { SandboxLimits } from '../../sandbox/policy/specification.ts';
import type { InstanceFiles } from '../instance-files.ts';
import { isSupervised } from '../lifecycle/stop.ts';
import type { StoredService } from '../lifecycle/store.ts';
import { askSupervisor } from '../supervisor/supervisor-client.ts';
import type { ServiceDefinition, ServiceFile } from './definition.ts';
import { changeDefinition } from './definition-file.ts';

/** Settings that change on a running service at once. */
const LIVE = ['memory', 'cpus', 'pids'] as const;

/** Which settings are in force now, and which at the next start. */
export interface ChangeReport {
  readonly inForce: readonly string[];
  readonly atRestart: readonly string[];
}

/**
 * Changes settings of a service in its file, and limits of its running sandbox: both or neither. A value of
 * null removes a setting. Throws E_RECIPE for an invalid value, E_LIMIT.
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
  // Removed limits wait for the next start: not every limit of the kernel has a value for "none".
  const live = LIVE.filter((key) => keys.includes(key) && changed.definition[key] !== undefined);
  const limited =
    supervised && live.length > 0 && (await limit(files, changed.definition, definition, live));
  await changed.store();
  const inForce = limited ? live : [];
  const rest = keys.filter((key) => !inForce.some((name) => name === key));
  return { inForce, atRestart: supervised ? rest : [] };
}

/**
 * Sets limits of a running service. If one fails, the others are set back, except those that had no limit
 * before: they stay until the sandbox ends. False if the supervisor does not listen yet; it will read the file.
 * Throws E_LIMIT.
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
    // The limits before the one that failed are in force already.
    await askSupervisor(files, { do: 'limit', limits: of(before) }).catch(() => undefined);
    throw error;
  }
}
