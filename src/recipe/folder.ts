/** What recipes read: of a build recipe, what lies in its folder and below, and nothing else. */
import { closeSync, constants, openSync } from 'node:fs';
import { type OpenHow, openat2, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS } from '../host/files/at.ts';

export interface RecipeFolder {
  /**
   * Opens a file in the folder or below for reading; no link leads out. The caller closes it. @throws Error of
   * the kernel’s
   */
  open(path: string): number;
}

/** How a recipe's file is opened. O_NONBLOCK: a fifo must not block kiln. */
export const BENEATH: OpenHow = {
  flags: constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY,
  resolve: RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
};

/** A folder of the host, read with the rights of this process. */
export function hostFolder(folder: string): RecipeFolder {
  return {
    open: (path) => {
      const base = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
      try {
        return openat2(base, path, BENEATH);
      } finally {
        closeSync(base);
      }
    },
  };
}

/** How the files that an image recipe names are read, where that is not with the rights of this process. */
export interface RecipeFiles {
  /** What a user calls what a copy is of, absolute; undefined for what is no copy. */
  nameOf(copy: string): string | undefined;
  /** A copy of a file. @throws KilnError E_CALLER_FILE */
  file(path: string): Promise<string>;
  /** A copy of a folder, without links that lead out of it. @throws KilnError E_CALLER_FILE */
  tree(path: string, links: 'inside'): Promise<string>;
}
