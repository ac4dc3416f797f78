/** A recipe's folder, from which it may have its own modules and nothing else. */
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { openat2, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS } from '../../kernel/at.ts';
import { RECIPE_SIZE_LIMIT } from '../../recipe/read-text.ts';

/** What a module's name ends in. Other files are sources, and the recipe says so. */
const MODULE = /\.(?:m?[tj]s|json)$/;

/** O_NONBLOCK: a fifo must not hang us. */
const BENEATH = {
  flags: constants.O_RDONLY | constants.O_NONBLOCK,
  resolve: RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
};

/** The text of a module below `folder`; links may not lead out of it. Throws E_RECIPE_READ. */
export function readModule(folder: string, path: string): string {
  if (!MODULE.test(path)) throw unreadable(path, 'modules end in .ts, .mts, .js, .mjs or .json');
  const fd = openBeneath(folder, path);
  try {
    const stats = fstatSync(fd);
    if (!stats.isFile()) throw unreadable(path, 'it is no file');
    if (stats.size > RECIPE_SIZE_LIMIT) throw unreadable(path, 'it is too large for a module');
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
}

/** Opens a file below `folder` for reading; the caller closes it. Throws E_RECIPE_READ. */
export function openBeneath(folder: string, path: string): number {
  let base: number | undefined;
  try {
    base = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
    return openat2(base, path, BENEATH);
  } catch (cause) {
    throw unreadable(path, 'a recipe may read what lies in its folder and below', cause);
  } finally {
    if (base !== undefined) closeSync(base);
  }
}

function unreadable(path: string, why: string, cause?: unknown): KilnError {
  return new KilnError('E_RECIPE_READ', `the recipe cannot have ${path}: ${why}`, { cause });
}
