import { configuredLines } from './tmpfiles.ts';
import type { Tree } from './tree.ts';
import { splitWords } from './unit/words.ts';

/** Types of tmpfiles.d(5) that make what they name, or say whose it is. */
const MAKING = new Set('dDvqQefFCpL');

/**
 * What the tmpfiles.d and sysusers.d among `files` name below /etc and /var: directories, files and
 * homes that are made when a package is installed or a system starts, and so are in no payload.
 */
export function declaredPaths(tree: Tree, files: readonly string[]): string[] {
  return files
    .flatMap((file) => {
      const [, kind] = /\/(tmpfiles|sysusers)\.d\/[^/]+\.conf$/.exec(file) ?? [];
      if (kind === undefined) return [];
      const lines = configuredLines(tree, file).map((line) =>
        (splitWords(line) ?? []).map(({ text }) => text),
      );
      return lines.map(kind === 'tmpfiles' ? madePath : home);
    })
    .filter((path) => path !== undefined)
    .map((path) => path.replace(/\/+$/, ''));
}

function madePath([type = '', path = '']: readonly string[]): string | undefined {
  return MAKING.has(type.charAt(0)) && isOwnable(path) ? path : undefined;
}

/** sysusers.d(5): type, name, id, gecos, home, shell. */
function home([type = '', , , , path = '']: readonly string[]): string | undefined {
  return type.startsWith('u') && isOwnable(path) ? path : undefined;
}

/** Below /etc or /var, and exactly that: no pattern, no specifier, no way out. */
function isOwnable(path: string): boolean {
  return /^\/(?:etc|var)\/[^/*?[%]/.test(path) && !/[*?[%]|\/\.{1,2}(?:\/|$)/.test(path);
}
