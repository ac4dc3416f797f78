/** A build recipe reads what lies in its folder and below, and nothing else. */
import { constants, openSync } from 'node:fs';
import { closing } from '../host/calls/descriptor.ts';
import { type OpenHow, openat2, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS } from '../host/files/at.ts';

export interface RecipeFolder {
  /** The file lies in the folder or below; no link leads out. The caller closes it. @throws the kernel’s Error */
  open(path: string): number;
}

/** O_NONBLOCK: a fifo must not block kiln. */
export const BENEATH: OpenHow = {
  flags: constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY,
  resolve: RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
};

export function hostFolder(folder: string): RecipeFolder {
  return {
    open: (path) => {
      using base = closing(openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY));
      return openat2(base.fd, path, BENEATH);
    },
  };
}

/** How files that an image recipe names are read, where that is not with the rights of this process. */
export interface RecipeFiles {
  nameOf(copy: string): string | undefined;
  file(path: string): Promise<string>;
  /** The copy has no links that lead out. @throws KilnError E_CALLER_FILE */
  tree(path: string, links: 'inside'): Promise<string>;
}
