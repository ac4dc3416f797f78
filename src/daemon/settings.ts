import { existsSync, mkdirSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../host/state/package-root.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { timeInMilliseconds } from '../options/measures.ts';
import { type Configuration, groupNumber, readConfiguration } from '../users/configuration.ts';
import { configurationFile } from '../users/configuration-file.ts';
import { usuallyParked } from '../users/defaults.ts';

const DEFAULT_STATE = '/var/lib/kiln';
const SOCKET = 'io.kiln';

/** `KILN_IDLE`: how long nobody may want anything before the daemon ends. */
const IDLE = '10m';

/** What a daemon is told by its environment, kiln.yaml and its build. */
export interface DaemonSettings {
  /** Without links. */
  readonly state: string;
  /** The paths of its sockets, where nobody passes any. */
  readonly names: readonly string[];
  /** Whose members are served beside root. */
  readonly group: number | undefined;
  /** The path of root's kiln.yaml. */
  readonly configuration: string;
  readonly build: string;
  /** Milliseconds. */
  readonly idleTime: number;
  /** How many sandboxes are parked unless somebody asks for another number. */
  readonly parked: number;
  /** The same of machines. */
  readonly parkedMachines: number;
}

/** @throws Node's own errors of the file system */
export function readSettings(
  env: NodeJS.ProcessEnv,
  paths: StatePaths,
  tell: (error: unknown) => void,
): DaemonSettings {
  const state = realpathSync(paths.root);
  const names = [join(state, SOCKET)];
  const configuration = configurationFile(env);
  const configured = configuredBy(configuration, tell);
  const isDefault = existsSync(DEFAULT_STATE) && realpathSync(DEFAULT_STATE) === state;
  if (isDefault) {
    mkdirSync(paths.hostRun, { recursive: true, mode: 0o755 });
    names.push(join(paths.hostRun, SOCKET));
  }
  // Users have one daemon, root's tests some more.
  const isUsers = configured !== undefined && (isDefault || Boolean(env.KILN_CONFIG));
  return {
    ...{ state, names, configuration },
    group: isUsers ? groupNumber(configured.policy.group) : undefined,
    build: readFileSync(join(packageRoot(), 'dist/build-id'), 'utf8').trim(),
    idleTime: timeInMilliseconds(env.KILN_IDLE || IDLE) ?? 0,
    parked: Number(env.KILN_PARKED || (configured?.defaults.parked ?? usuallyParked())),
    parkedMachines: Number(env.KILN_PARKED_VMS || (configured?.defaults['parked-vms'] ?? 0)),
  };
}

/** Where it has mistakes, only root is served, who can mend them. */
function configuredBy(file: string, tell: (error: unknown) => void): Configuration | undefined {
  try {
    return readConfiguration(file);
  } catch (error) {
    tell(error);
    return undefined;
  }
}
