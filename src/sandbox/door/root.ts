import { existsSync, renameSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { isKilnCode } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { SandboxControl } from '../command/control.ts';
import type { SandboxDomain } from '../domain/sandbox-domain.ts';
import type { SandboxRecord } from '../domain/sandbox-record.ts';
import { discardScratch, newScratch } from '../domain/written.ts';
import { relabelScratch } from '../labels/relabel.ts';
import { planRoot } from '../policy/filesystem.ts';
import type { SnapshotLayer } from '../policy/specification.ts';
import type { Layers } from './layers.ts';

/** An image and the layers of snapshots above it. */
interface Root {
  readonly tree: string;
  readonly layers: readonly SnapshotLayer[];
}

/** The root of a sandbox, whose files become a snapshot, or go back to one. */
export class SandboxRoot {
  readonly #domain: SandboxDomain;
  readonly #layers: Layers;
  readonly #end: () => Promise<void>;

  /** @param end ends what runs in the sandbox, and what looks at its disk */
  constructor(domain: SandboxDomain, layers: Layers, end: () => Promise<void>) {
    this.#domain = domain;
    this.#layers = layers;
    this.#end = end;
  }

  /**
   * Has what lies on the disk become a layer of a snapshot below the root: a rename, without a copy. Whoever is killed,
   * the sandbox goes on above it, or nothing has happened.
   * @param moved where the layer's files are to be, on the same file system
   * @param below what the root stands on by now
   * @throws KilnError E_SETUP, E_SANDBOX_GONE, SyscallError EXDEV
   */
  async freeze(snapshot: string, moved: string, below: Root): Promise<void> {
    const { scratch } = this.#domain.record;
    if (scratch === undefined) throw new TypeError('what the sandbox writes is not on the disk');
    await this.#end();
    const layers = [...below.layers, { id: snapshot, tree: moved }];
    this.#note({ rollback: snapshot, frozen: { moved, tree: below.tree, layers } });
    renameSync(join(scratch.path, 'upper'), moved);
    await this.change(snapshot, { tree: below.tree, layers });
  }

  /** Goes on where one was killed that made a snapshot. */
  async thaw(): Promise<void> {
    const { frozen, rollback = '' } = this.#domain.record;
    if (frozen === undefined) return;
    if (existsSync(frozen.moved)) await this.change(rollback, frozen);
    else this.#note({ rollback: undefined, frozen: undefined });
  }

  /**
   * Ends what runs in the sandbox, and gives it another root: what it has written to the one before is gone. What is
   * mounted there stays. Until that is done nobody else enters it, whoever is killed.
   * @param snapshot the topmost layer of the new root
   * @throws KilnError E_SETUP, E_SANDBOX_GONE, E_IDMAP
   */
  async change(snapshot: string, { tree, layers }: Root): Promise<void> {
    await this.#end();
    this.#note({ rollback: snapshot });
    const { scratch: old, labels, frozen } = this.#domain.record;
    const scratch = old && { ...old, path: newScratch(this.#domain.paths, this.#domain.id) };
    if (scratch !== undefined && labels !== undefined) {
      await relabelScratch(scratch.path, labels);
    }
    const parts = { root: tree, layers, scratch: scratch?.path, disk: await this.#disk() };
    using plan = planRoot(this.#domain.channel.initPid, parts);
    try {
      await new SandboxControl(this.#domain.channel).changeRoot(plan.operations, plan.fds);
    } catch (error) {
      // The root is the one that it was.
      if (isKilnCode(error, 'E_SETUP') && frozen === undefined) this.#note({ rollback: undefined });
      throw error;
    }
    const ids = layers.map(({ id }) => id);
    this.#note({ rollback: undefined, frozen: undefined, layers: ids, scratch });
    // Layers of folders that are bound with cow lie there, too.
    if (old !== undefined && this.#layers.folders.length === 0) {
      discardScratch(this.#domain.paths, old.path);
    }
  }

  /** Bytes. */
  async #disk(): Promise<number> {
    const { disk } = this.#domain.record;
    if (disk !== undefined) return disk;
    // A kiln of an older version has made it, in a container.
    using home = closing(await this.#layers.open('/'));
    const { blocks, bsize } = statfsSync(`/proc/self/fd/${home.fd}`);
    return blocks * bsize;
  }

  #note(now: Partial<SandboxRecord>): void {
    this.#domain.describe(now);
    this.#domain.writeRecord();
  }
}
