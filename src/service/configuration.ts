import type { ServiceFile } from './definition.ts';
import { isSupervised } from './stop.ts';
import type { StoredService } from './store.ts';
import { changeDefinition, readDefinition } from './store.ts';
import { askSupervisor } from './supervisor-client.ts';

/** Settings that are changed on a running service at once. */
const LIVE = ['memory', 'cpus', 'pids'] as const;

/** Which settings are in force at once, and which with the next start. */
export interface ChangeReport {
  readonly inForce: readonly string[];
  readonly atRestart: readonly string[];
}

/**
 * Changes settings of a service in its file, and limits on its box if it runs. A value of null
 * removes a setting. Throws E_RECIPE for what cannot be, E_LIMIT.
 */
export async function changeService(
  service: StoredService,
  changes: { readonly [Key in keyof ServiceFile]?: ServiceFile[Key] | null },
): Promise<ChangeReport> {
  const { files } = service;
  await changeDefinition(files.definition, (document) => {
    for (const [key, value] of Object.entries(changes)) {
      if (value === undefined) continue;
      if (value === null) document.delete(key);
      else document.set(key, value);
    }
  });
  const keys = Object.keys(changes);
  if (!(await isSupervised(files))) return { inForce: [], atRestart: [] };
  const { memory, cpus, pids } = await readDefinition(files.definition);
  const limits = Object.fromEntries(
    Object.entries({ memory, cpus, pids }).filter(
      ([key, value]) => keys.includes(key) && value !== undefined,
    ),
  );
  // What is taken away is not: a limit of the kernel's has no value that says "none" everywhere.
  const live = LIVE.filter((key) => key in limits);
  if (live.length > 0) await askSupervisor(files, { do: 'limit', limits });
  return { inForce: live, atRestart: keys.filter((key) => !live.some((name) => name === key)) };
}
