/** What kilnd's own thread does for its callers: serves their command lines, and answers their calls. */
import { statSync } from 'node:fs';
import type { Call } from '../daemon/call.ts';
import type { CommandLine } from '../daemon/command-line.ts';
import type { Lull, Removals } from '../daemon/lull.ts';
import type { Parking } from '../daemon/parked.ts';
import { WorkerResults } from '../daemon/results.ts';
import type { Workers } from '../daemon/workers.ts';
import type { Engine } from '../engine.ts';
import { answerCall } from './calls/answer.ts';
import type { OpenSandboxes } from './calls/open-sandboxes.ts';
import { serveCommandLine } from './command-lines.ts';
import { engineFor, type Shares } from './users.ts';

/** How long whoever lists sandboxes waits for removals, milliseconds. */
const LISTED_REMOVALS = 5000;

export interface ServingParts {
  readonly engine: Engine;
  readonly parked: Parking;
  readonly workers: Workers;
  readonly lull: Lull;
  readonly removals: Removals;
  readonly sandboxes: OpenSandboxes;
  readonly users: Shares;
  readonly tell: (error: unknown) => void;
}

export class Serving {
  readonly #parts: ServingParts;
  readonly #calls = new Map<string, Call>();
  readonly #mountNamespace = statSync('/proc/self/ns/mnt').ino;

  constructor(parts: ServingParts) {
    this.#parts = parts;
  }

  async line(line: CommandLine): Promise<void> {
    const { engine, parked, workers, lull, removals, users } = this.#parts;
    using starting = lull.begin();
    const started = () => starting[Symbol.dispose]();
    await serveCommandLine(line, {
      ...{ engine, users, started, parking: parked, mountNamespace: this.#mountNamespace },
      results: (umask) => new WorkerResults(workers, umask),
      removeLater: (remove) => removals.later(remove),
      removed: () => this.#removed(starting),
      work: (handed, env, takeRoom) => {
        // What a worker does may start any number of sandboxes, at any time.
        started();
        return workers.giveLine(handed, env, takeRoom);
      },
    });
  }

  async call(call: Call, isServed: boolean): Promise<void> {
    const { engine, workers, lull, removals, sandboxes, users, tell } = this.#parts;
    using starting = lull.begin();
    const env = { KILN_STATE: engine.paths.root };
    await answerCall(call, {
      ...{ env, engine, isServed, users, tell },
      openEngine: (caller, options) => engineFor(engine, env, caller, options),
      storeChanged: () => undefined,
      state: {
        ...{ sandboxes, calls: this.#calls },
        removeLater: (remove) => removals.later(remove),
        removed: () => this.#removed(starting),
      },
      work: (long) => {
        starting[Symbol.dispose]();
        return workers.giveCall(long);
      },
    });
  }

  /** Removals wait for what starts: whoever lists sandboxes starts none. */
  async #removed(starting: Disposable): Promise<void> {
    starting[Symbol.dispose]();
    await this.#parts.removals.done(LISTED_REMOVALS);
  }
}
