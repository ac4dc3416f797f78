import { KilnError } from '../errors.ts';
import type { StatePaths } from '../state/paths.ts';
import { isKilnCode } from './failure.ts';
import { instanceFiles } from './instance-files.ts';
import { type Outcome, readOutcome, type ServiceStatus } from './status.ts';
import { readService, type StoredService, serviceNames } from './store.ts';
import { askSupervisor } from './supervisor-client.ts';

export interface ListedService {
  readonly name: string;
  /** Undefined when its service.yaml is broken: see `problem`. */
  readonly service: StoredService | undefined;
  /** Its file is broken, or its supervisor does not answer. */
  readonly problem: KilnError | undefined;
  readonly status: ServiceStatus | undefined;
  /** How it last ended. */
  readonly outcome: Outcome | undefined;
}

/** All services, or those named, in order of their names. Throws E_NO_SERVICE for one that is named. */
export async function listServices(
  paths: StatePaths,
  names?: readonly string[],
): Promise<ListedService[]> {
  const wanted = names === undefined || names.length === 0 ? await serviceNames(paths) : names;
  return await Promise.all(
    wanted.map(async (name) => {
      const files = instanceFiles(paths, name);
      const { service, problem } = await readOrComplain(paths, name);
      let silence: KilnError | undefined;
      const [status, outcome] = await Promise.all([
        askSupervisor<ServiceStatus>(files, { do: 'status' }).catch((error: unknown) => {
          // One that ends meanwhile is none.
          if (isKilnCode(error, 'E_SERVICE_SILENT')) silence = error;
          return undefined;
        }),
        readOutcome(files),
      ]);
      return { name, service, problem: problem ?? silence, status, outcome };
    }),
  );
}

async function readOrComplain(
  paths: StatePaths,
  name: string,
): Promise<Pick<ListedService, 'service' | 'problem'>> {
  try {
    const service = await readService(paths, name);
    return { service, problem: service.imageProblem };
  } catch (error) {
    if (!(error instanceof KilnError) || error.code === 'E_NO_SERVICE') throw error;
    return { service: undefined, problem: error };
  }
}
