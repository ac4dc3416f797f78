import { join } from 'node:path';
import type { OptionCaller, PathCaller } from '../cli/caller/caller.ts';
import type { DaemonConnection } from '../daemon/daemon-connection.ts';
import { type EngineOptions, type OwnEngine, openEngine } from '../engine.ts';
import { heldLock } from '../host/files/flock.ts';
import { namesLibvirt } from '../host/libvirt/pick-engine.ts';
import type { Turn, WantedTurn } from '../host/libvirt/sandbox-host.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { ownerOf } from './users.ts';

/** The engines of a worker's jobs, whose connections are closed only after the client was told the outcome. */
export class WorkerEngines {
  readonly #daemon: DaemonConnection;
  readonly #configuration: string | undefined;
  readonly #left: OwnEngine[] = [];

  /** @param configuration `KILN_CONFIG`: where root's own files are is the daemon's to say, never a caller's */
  constructor(daemon: DaemonConnection, configuration: string | undefined) {
    this.#daemon = daemon;
    this.#configuration = configuration;
  }

  open(
    env: OptionCaller['env'],
    { user, paths }: PathCaller,
    options: EngineOptions = {},
  ): OwnEngine {
    const own = openEngine(
      { ...env, KILN_CONFIG: this.#configuration },
      {
        ...{ ...options, owner: user && ownerOf(user) },
        renamed: (value) => paths.renamed(value),
        holdName: (path) => paths.holdName(path),
      },
    );
    // Parked sandboxes are domains of the daemon's own libvirt.
    const takeTurn = namesLibvirt(env)
      ? undefined
      : (wanted: WantedTurn) => this.#takeTurn(own.paths, wanted);
    return { ...own, takeTurn, [Symbol.asyncDispose]: async () => void this.#left.push(own) };
  }

  async closeLeft(): Promise<void> {
    for (const engine of this.#left.splice(0)) await engine.close();
  }

  async #takeTurn(paths: StatePaths, { parked: wish, signal }: WantedTurn): Promise<Turn> {
    const { parked, ...turn } = await this.#daemon.takeTurn(wish, signal);
    if (parked === undefined) return turn;
    const directory = join(paths.sandboxes, parked.id);
    return { ...turn, parked: { directory, lock: heldLock(parked.lock) } };
  }
}
