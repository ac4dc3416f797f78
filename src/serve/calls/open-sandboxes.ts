import { KilnError } from '../../errors.ts';
import { deferred } from '../../promise.ts';
import type { Plan } from '../../sandbox/door/plan.ts';
import type { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';

/** How long a sandbox without a connection may be unused, milliseconds. */
const UNUSED_MAX = 10 * 60_000;

export interface OpenSandbox {
  readonly sandbox: PlannedSandbox;
  readonly plan: Plan;
  readonly uid: number;
  readonly closed: Promise<void>;
}

interface Entry extends OpenSandbox {
  readonly close: () => void;
  readonly bound: boolean;
  uses: number;
  isClosedToOthers: boolean;
  timer: NodeJS.Timeout | undefined;
}

export class OpenSandboxes {
  readonly #all = new Map<string, Entry>();
  readonly #hold: (() => Disposable) | undefined;

  /** @param hold keeps the process alive while one is open */
  constructor(hold?: () => Disposable) {
    this.#hold = hold;
  }

  has(id: string, uid: number): boolean {
    return this.#all.get(id)?.uid === uid;
  }

  /** Takes over a sandbox. @param bound it belongs to a connection, and does not close by itself */
  add(
    sandbox: PlannedSandbox,
    plan: Plan,
    { uid, bound }: { readonly uid: number; readonly bound: boolean },
  ): OpenSandbox {
    const { promise: closed, resolve } = deferred<void>();
    const hold = this.#hold?.();
    const close = () => {
      hold?.[Symbol.dispose]();
      resolve();
    };
    const state = { uses: 0, isClosedToOthers: false, timer: undefined };
    const entry: Entry = { sandbox, plan, uid, closed, close, bound, ...state };
    this.#all.set(sandbox.id, entry);
    this.#wait(entry);
    // Whoever ends it otherwise makes room for the user's next one, too.
    const forget = async () => {
      if (this.#all.get(sandbox.id) === entry) await this.#close(entry);
    };
    sandbox.control.gone.then(forget).catch(() => undefined);
    return entry;
  }

  /**
   * Uses a sandbox, which stays open meanwhile.
   * @throws KilnError E_NO_SANDBOX where there is none, or it is somebody else's; E_SANDBOX_BUSY
   */
  async use<Result>(
    id: string,
    uid: number,
    act: (open: OpenSandbox) => Promise<Result>,
  ): Promise<Result> {
    const entry = this.#find(id, uid);
    if (entry.isClosedToOthers) throw busyError(id);
    return await this.#use(entry, act);
  }

  /** Uses a sandbox in which nothing else is done meanwhile. @throws as use() */
  async useAlone<Result>(
    id: string,
    uid: number,
    act: (open: OpenSandbox) => Promise<Result>,
  ): Promise<Result> {
    const entry = this.#find(id, uid);
    if (entry.isClosedToOthers || entry.uses > 0) throw busyError(id);
    entry.isClosedToOthers = true;
    try {
      return await this.#use(entry, act);
    } finally {
      entry.isClosedToOthers = false;
    }
  }

  async #use<Result>(entry: Entry, act: (open: OpenSandbox) => Promise<Result>): Promise<Result> {
    entry.uses++;
    clearTimeout(entry.timer);
    try {
      return await act(entry);
    } finally {
      entry.uses--;
      this.#wait(entry);
    }
  }

  async close(id: string, uid: number): Promise<void> {
    await this.#close(this.#find(id, uid));
  }

  /** @param bound those of connections, too */
  async closeAll(bound: boolean): Promise<void> {
    const chosen = [...this.#all.values()].filter((entry) => bound || !entry.bound);
    await Promise.allSettled(chosen.map((entry) => this.#close(entry)));
  }

  #find(id: string, uid: number): Entry {
    const entry = this.#all.get(id);
    if (entry !== undefined && entry.uid === uid) return entry;
    throw new KilnError('E_NO_SANDBOX', `there is no open sandbox ${id}`, {
      hint: 'OpenSandbox opens one; what its connection had opened ends with it',
    });
  }

  #wait(entry: Entry): void {
    if (entry.bound || entry.uses > 0 || !this.#all.has(entry.sandbox.id)) return;
    entry.timer = setTimeout(() => this.#close(entry).catch(() => undefined), UNUSED_MAX);
  }

  async #close(entry: Entry): Promise<void> {
    this.#all.delete(entry.sandbox.id);
    clearTimeout(entry.timer);
    try {
      await entry.sandbox.close();
    } finally {
      entry.close();
    }
  }
}

function busyError(id: string): KilnError {
  return new KilnError('E_SANDBOX_BUSY', `sandbox ${id} is in use by another call`, {
    hint: 'wait until that has ended; Snapshot and Rollback end it with `kill`',
  });
}
