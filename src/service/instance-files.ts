import { join } from 'node:path';
import type { StatePaths } from '../host/state/paths.ts';

/** Files of one service. All are root's alone, apart from what the sandbox sees. */
export interface InstanceFiles {
  readonly directory: string;
  /** What a person wants of it. */
  readonly definition: string;
  /** `{ image }`, the id of its image: that image is not collected. */
  readonly image: string;
  /** What came of its last run, see outcome.ts. */
  readonly outcome: string;
  /** Its private directories, owners as in the sandbox. */
  readonly etc: string;
  readonly var: string;
  /** Instead of `var` where the service has a fixed size: an ext4 file system. */
  readonly varImage: string;
  readonly logs: string;
  readonly log: string;
  /** What lives no longer than a boot. */
  readonly run: string;
  /**
   * Held by the supervisor for as long as it lives. Not on /run: whoever reaches the same state by another
   * name, or from another container, must not write the same /var.
   */
  readonly supervisorLock: string;
  /** Exists while a guardian is to start the supervisor again whenever it dies. */
  readonly wanted: string;
  /** Where the supervisor listens. */
  readonly socket: string;
}

/** The files of the service `name`, whether it exists or not. */
export function instanceFiles(paths: StatePaths, name: string): InstanceFiles {
  return filesIn(join(paths.services, name), join(paths.runServices, name));
}

/** The files of a service that is being made in `directory`. */
export function filesIn(directory: string, run: string): InstanceFiles {
  const logs = join(directory, 'log');
  return {
    directory,
    definition: join(directory, 'service.yaml'),
    image: join(directory, 'image.json'),
    outcome: join(directory, 'outcome.json'),
    etc: join(directory, 'etc'),
    var: join(directory, 'var'),
    varImage: join(directory, 'var.ext4'),
    logs,
    log: join(logs, 'service.log'),
    run,
    supervisorLock: join(directory, 'supervisor.lock'),
    wanted: join(run, 'wanted'),
    socket: join(run, 'control.sock'),
  };
}
