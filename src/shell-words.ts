import { KilnError } from './errors.ts';

/**
 * Splits a text into words as a POSIX shell does, without expanding anything: blanks separate,
 * quotes and backslashes protect.
 * @throws KilnError E_MOCK_USAGE for a quote without its end.
 */
export function shellWords(text: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  const parts = text.matchAll(
    /'([^']*)'|"((?:[^"\\]|\\[\s\S])*)"|\\([\s\S])|(\s+)|([^\s'"\\]+|[\s\S])/g,
  );
  for (const [piece, single, double, escaped, blank, plain] of parts) {
    if (blank !== undefined) {
      if (word !== undefined) words.push(word);
      word = undefined;
      continue;
    }
    if (plain === "'" || plain === '"' || plain === '\\') {
      throw new KilnError('E_MOCK_USAGE', `${piece} without its end in ${JSON.stringify(text)}`, {
        hint: 'close it, or write a backslash before it',
      });
    }
    const inner = double?.replace(/\\([$`"\\\n])/g, (_, kept: string) =>
      kept === '\n' ? '' : kept,
    );
    word = (word ?? '') + (single ?? inner ?? escaped ?? plain ?? '');
  }
  if (word !== undefined) words.push(word);
  return words;
}

export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
