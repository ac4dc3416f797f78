/** Who may start a sandbox now: libvirt starts a few at a time, and those that wait would use up their patience. */
import type { Turn, WantedTurn } from '../host/libvirt/sandbox-host.ts';
import { UserJobs } from '../users/queue.ts';
import type { ParkedSandboxes } from './parked.ts';

/** More at once are no faster (src/host/libvirt/pool.ts). The last place is for a caller who has none. */
const AT_ONCE = 4;

export class Turns {
  readonly #parked: Pick<ParkedSandboxes, 'take' | 'noteClaim'>;
  readonly #starts = new UserJobs(AT_ONCE);

  constructor(parked: Pick<ParkedSandboxes, 'take' | 'noteClaim'>) {
    this.#parked = parked;
  }

  /** @throws the reason of an abort */
  async take({ uid, isParkable, signal }: WantedTurn): Promise<Turn> {
    const parked = isParkable ? await this.#parked.take() : undefined;
    if (isParkable) this.#parked.noteClaim(parked !== undefined);
    if (parked !== undefined) return { parked, [Symbol.dispose]: () => undefined };
    const turn = await this.#starts.begin({ uid, most: AT_ONCE }, () => undefined, signal);
    if (turn === undefined) throw signal?.reason;
    return turn;
  }
}
