/** A build recipe reads what lies in its folder and below, and nothing else. */
import { constants, openSync } from 'node:fs';
import { closing } from '../host/calls/descriptor.ts';
import { BENEATH, openat2 } from '../host/files/at.ts';

export interface RecipeFolder {
  /** The file lies in the folder or below; no link leads out. The caller closes it. @throws the kernel’s Error */
  open(path: string): number;
}

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
  /** A copy of what lies in a recipe's folder or below. @throws KilnError E_CALLER_FILE; EXDEV for a link that leads out */
  beside(recipe: string, name: string): Promise<string>;
  /** The copy has no links that lead out. @throws KilnError E_CALLER_FILE */
  tree(path: string, links: 'inside'): Promise<string>;
}
