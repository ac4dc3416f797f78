import { join } from 'node:path';
import type { StatePaths } from '../host/state/paths.ts';

/** The files of one service. Only root can reach them, except what the sandbox sees. */
export interface InstanceFiles {
  readonly directory: string;
  /** The service's definition: service.yaml. */
  readonly definition: string;
  /** `{ image }`, the id of its image, which is kept as long as the service. */
  readonly image: string;
  /** How its last run ended; see status.ts. */
  readonly outcome: string;
  /** Its private directories, with the owners in the sandbox. */
  readonly etc: string;
  readonly var: string;
  /** Replaces `var` if the service has a fixed size: an ext4 file system. */
  readonly varImage: string;
  readonly logs: string;
  readonly log: string;
  /** The folder for files that live no longer than a boot. */
  readonly run: string;
  /**
   * The supervisor holds it while it lives. It is not on /run: a supervisor that reaches the same state by
   * another name, or from another container, must not write the same /var.
   */
  readonly supervisorLock: string;
  /** Exists while a guardian must restart a supervisor that dies. */
  readonly wanted: string;
  /** The supervisor's socket. */
  readonly socket: string;
}

/** The files of the service `name`, whether it exists or not. */
export function instanceFiles(paths: StatePaths, name: string): InstanceFiles {
  return filesIn(join(paths.services, name), join(paths.runServices, name));
}

/** The files of a service that is being created in `directory`. */
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
