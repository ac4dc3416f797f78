import { statSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { DirectoryReader, openDirectory } from '../../host/files/at.ts';
import type { SandboxControl } from '../command/control.ts';
import type { SandboxFacts } from '../command/facts.ts';
import type { Ground } from '../domain/ground.ts';
import type { LayeredFolder } from '../domain/sandbox-record.ts';
import type { Bind } from '../policy/specification.ts';

/** What an open sandbox has written: into its root, and over folders of the caller's that are bound with `cow`. */
export class Layers {
  readonly folders: readonly LayeredFolder[];
  readonly #control: SandboxControl;
  readonly #facts: SandboxFacts;
  readonly #ground: Ground;

  constructor(
    folders: readonly LayeredFolder[],
    control: SandboxControl,
    facts: SandboxFacts,
    ground: Ground,
  ) {
    this.folders = folders;
    this.#control = control;
    this.#facts = facts;
    this.#ground = ground;
  }

  /**
   * A descriptor of the folder whose `upper` has what was written at one of {@link folders}, or `/`; the caller closes
   * it. What is in `upper` is hostile. @throws KilnError E_SANDBOX_GONE, E_MACHINE
   */
  async open(target: string): Promise<number> {
    if (this.#ground.machine !== undefined) {
      throw new KilnError('E_MACHINE', 'the layers of a machine cannot be reached from the host', {
        hint: 'leave out --isolation vm',
      });
    }
    const nth = ['/', ...this.#facts.layeredBinds].indexOf(target);
    if (nth < 0) {
      throw new KilnError('E_ARGUMENT', `no layer lies at ${target} in the sandbox`, {
        hint: '`kiln inspect ID` shows its binds with cow',
      });
    }
    return await this.#control.layer(nth);
  }

  /** Targets of {@link folders} in which something was written. */
  async written(): Promise<string[]> {
    const written: string[] = [];
    for (const { target } of this.folders) {
      using home = closing(await this.open(target));
      using upper = closing(openDirectory(home.fd, 'upper'));
      // The first names tell: there may be a million.
      if ((new DirectoryReader(upper.fd).next() ?? []).length > 0) written.push(target);
    }
    return written;
  }
}

export function layeredFolders(binds: readonly Bind[]): LayeredFolder[] {
  return binds
    .filter(({ cow }) => cow === true)
    .map(({ source, target, place }) => {
      const { dev, ino } = statSync(place, { bigint: true });
      return { source, target, device: `${dev}`, inode: `${ino}` };
    });
}
