import type { StatePaths } from '../state/paths.ts';
import { type Outcome, readOutcome } from './outcome.ts';
import type { ServiceStatus } from './status.ts';
import { readService, type StoredService, serviceNames } from './store.ts';
import { askSupervisor } from './supervisor-client.ts';

/** A service and what it does at the moment. */
export interface ListedService {
  readonly service: StoredService;
  /** Undefined when it does not run. */
  readonly status: ServiceStatus | undefined;
  /** How it last ended. */
  readonly outcome: Outcome | undefined;
}

/** All services, or those named, in order of their names. Throws what reading one throws. */
export async function listServices(
  paths: StatePaths,
  names?: readonly string[],
): Promise<ListedService[]> {
  const wanted = names === undefined || names.length === 0 ? await serviceNames(paths) : names;
  return await Promise.all(
    wanted.map(async (name) => {
      const service = await readService(paths, name);
      const [status, outcome] = await Promise.all([
        askSupervisor<ServiceStatus>(service.files, { do: 'status' }).catch(() => undefined),
        readOutcome(service.files),
      ]);
      return { service, status, outcome };
    }),
  );
}
