import { isKilnCode, KilnError } from '../errors.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { instanceFiles, readService, type StoredService, serviceNames } from './lifecycle/store.ts';
import { type Outcome, readOutcome, type ServiceStatus } from './status.ts';
import { askSupervisor } from './supervisor/supervisor-client.ts';

export interface ListedService {
  readonly name: string;
  readonly service: StoredService | undefined;
  readonly problem: KilnError | undefined;
  readonly status: ServiceStatus | undefined;
  readonly outcome: Outcome | undefined;
}

export function serviceState({ service, status, outcome, problem }: ListedService): string {
  if (status !== undefined)
    return status.health?.state === 'unhealthy' ? 'unhealthy' : status.state;
  if (service === undefined || service.image === undefined) return 'broken';
  return problem === undefined ? (outcome?.state ?? 'created') : 'silent';
}

export async function listServices(
  paths: StatePaths,
  names?: readonly string[],
): Promise<ListedService[]> {
  const all = names === undefined || names.length === 0;
  const wanted = all ? await serviceNames(paths) : names;
  const listed = await Promise.all(
    wanted.map(async (name) => {
      const files = instanceFiles(paths, name);
      const found = await readOrComplain(paths, name).catch((error: unknown) => {
        // It was deleted meanwhile.
        if (!all || !isKilnCode(error, 'E_NO_SERVICE')) throw error;
      });
      if (found === undefined) return [];
      const { service, problem } = found;
      let silence: KilnError | undefined;
      const asked = askSupervisor<ServiceStatus>(files, { do: 'status' });
      const status = await asked.catch((error: unknown) => {
        // A supervisor that ends meanwhile counts as not running.
        if (isKilnCode(error, 'E_SERVICE_SILENT')) silence = error;
        return undefined;
      });
      const outcome = readOutcome(files);
      return [{ name, service, problem: problem ?? silence, status, outcome }];
    }),
  );
  return listed.flat();
}

async function readOrComplain(paths: StatePaths, name: string) {
  try {
    const service = await readService(paths, name);
    return { service, problem: service.imageProblem };
  } catch (error) {
    if (!(error instanceof KilnError) || error.code === 'E_NO_SERVICE') throw error;
    return { service: undefined, problem: error };
  }
}
