import { fstatSync, statSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { DirectoryReader, openDirectory } from '../../host/files/at.ts';
import { nextPacket } from '../../host/sockets/unix-socket.ts';
import type { SandboxControl } from '../command/control.ts';
import type { SandboxFacts } from '../command/facts.ts';
import type { LayeredFolder } from '../domain/sandbox-record.ts';
import type { Bind } from '../policy/specification.ts';

/** What an open sandbox has written: into its root, and over folders of the caller's that are bound with `cow`. */
export class Layers {
  readonly folders: readonly LayeredFolder[];
  readonly #control: SandboxControl;
  readonly #facts: SandboxFacts;

  constructor(folders: readonly LayeredFolder[], control: SandboxControl, facts: SandboxFacts) {
    this.folders = folders;
    this.#control = control;
    this.#facts = facts;
  }

  /**
   * A descriptor of the folder whose `upper` has what was written at one of {@link folders}, or `/`; of a machine, a
   * socket that gives it as an archive (src/guest/machine/layer.c). The caller closes it. What is in `upper` is hostile.
   * @throws KilnError E_SANDBOX_GONE
   */
  async open(target: string): Promise<number> {
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
      const isWritten = fstatSync(home.fd).isDirectory()
        ? hasNames(home.fd)
        : await beginsWithEntry(home.fd);
      if (isWritten) written.push(target);
    }
    return written;
  }
}

/** The first names tell: there may be a million. */
function hasNames(home: number): boolean {
  using upper = closing(openDirectory(home, 'upper'));
  return (new DirectoryReader(upper.fd).next() ?? []).length > 0;
}

/** Of an archive in which the folder's own header, which is last, is a plain one (tar(5): the type's place). */
async function beginsWithEntry(archive: number): Promise<boolean> {
  const TYPE = 156;
  let begin = Buffer.alloc(0);
  while (begin.length <= TYPE) {
    const piece = await nextPacket(archive, TYPE + 1 - begin.length, 1);
    // An empty folder sends its own header: here something kept the machine from it.
    if (piece === undefined) return true;
    begin = Buffer.concat([begin, piece.data]);
  }
  return begin[TYPE] !== '5'.charCodeAt(0);
}

export function layeredFolders(binds: readonly Bind[]): LayeredFolder[] {
  return binds
    .filter(({ cow }) => cow === true)
    .map(({ source, target, place }) => {
      const { dev, ino } = statSync(place, { bigint: true });
      return { source, target, device: `${dev}`, inode: `${ino}` };
    });
}
