/** What a sandbox is opened on: kiln's state, libvirt, whose it is, and when it may start. */
import type { HeldLock } from '../files/flock.ts';
import type { UserIds } from '../process/user-namespace.ts';
import type { StatePaths } from '../state/paths.ts';
import type { Connection } from './connection.ts';
import type { Driver } from './pick-engine.ts';

/** Of containers by default. */
export type Connect = (driver?: Driver) => Promise<Connection>;

export interface SandboxHost {
  readonly paths: StatePaths;
  readonly owner: SandboxOwner | undefined;
  /** Always the same connection for a driver. Called only when libvirt is needed: a parked sandbox is claimed without it. */
  readonly connect: Connect;
  /** Of a daemon, which starts a few at a time for all of its callers. @throws the reason of an abort */
  readonly takeTurn?: ((wanted: WantedTurn) => Promise<Turn>) | undefined;
}

/** A user whose sandboxes they are. */
export interface SandboxOwner extends UserIds {
  readonly share: UserShare;
}

/** What each sandbox of a user may take; sizes are bytes. */
export interface UserShare {
  readonly memory: number;
  readonly pids: number;
  readonly cpus?: number;
  readonly disk: number;
  /** Of all that the user keeps in kiln's state. */
  readonly storage: number;
}

/** What a parked sandbox must be to be claimed. Each container is; of a machine, much is fixed when it boots. */
export type ParkedWish = { readonly isolation: 'container' } | ParkedMachineWish;

interface ParkedMachineWish {
  readonly isolation: 'vm';
  /** What the sandbox in it is to have, and what its owner's share of memory leaves for that; bytes. */
  readonly memory: number;
  readonly most?: number | undefined;
  readonly mayBeEmulated: boolean;
}

export interface WantedTurn {
  readonly uid: number;
  /** Undefined where none is. */
  readonly parked: ParkedWish | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Leave to start a sandbox, until disposed of; or one that was parked, which takes no time to start. */
export interface Turn extends Disposable {
  readonly parked?: HeldSandbox;
}

/** A sandbox that runs, by its folder, and the lock that says who has it. */
export interface HeldSandbox {
  readonly directory: string;
  readonly lock: HeldLock;
}
