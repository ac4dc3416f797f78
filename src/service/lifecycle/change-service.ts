import { defined } from '../../defined.ts';
import type { ServiceDefinition, ServiceFile } from '../definition/definition.ts';
import { changeDefinition } from '../definition/definition-file.ts';
import { askSupervisor, isSupervised, type LiveLimits } from '../supervisor/supervisor-client.ts';
import type { InstanceFiles, StoredService } from './store.ts';

/**
 * `io-read` and `io-write` wait for the next start: the kernel has such a limit for each disk, and which disks a
 * sandbox reaches is found out only while it is made.
 */
const LIVE = ['memory', 'cpus', 'pids'] as const satisfies readonly (keyof LiveLimits)[];

export async function changeService(
  { files, definition }: StoredService,
  changes: { readonly [Key in keyof ServiceFile]?: ServiceFile[Key] | null },
) {
  const changed = changeDefinition(files.definition, (document) => {
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
  changed.store();
  const inForce = limited ? live : [];
  const rest = keys.filter((key) => !inForce.some((name) => name === key));
  return { inForce, atRestart: supervised ? rest : [] };
}

/**
 * If one limit fails, the others are set back, except those that had none before: they stay until the sandbox
 * ends. False if the supervisor does not listen yet; it will read the file. Throws E_LIMIT.
 */
async function limit(
  files: InstanceFiles,
  wanted: ServiceDefinition,
  before: ServiceDefinition,
  keys: readonly (typeof LIVE)[number][],
): Promise<boolean> {
  const of = (definition: ServiceDefinition): LiveLimits =>
    defined(Object.fromEntries(keys.map((key) => [key, definition[key]])));
  try {
    const answer = await askSupervisor<null>(files, { do: 'limit', limits: of(wanted) });
    return answer !== undefined;
  } catch (error) {
    await askSupervisor(files, { do: 'limit', limits: of(before) }).catch(() => undefined);
    throw error;
  }
}
