/**
 * Writes the table of docs/security.md that says what stands around a command, for every way into a sandbox.
 * It is the table that test/doors measures; a test compares.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Around, doorEntry, doorNames, EVERYWHERE, LAYERS } from '../test/doors/table.ts';

export const SECURITY_PAGE = join(import.meta.dirname, '../docs/security.md');

const BEGIN = '<!-- doors: written by scripts/write-doors.ts from test/doors/table.ts -->';
const END = '<!-- /doors -->';

function row(cells: readonly string[]): string {
  return `| ${cells.map((cell) => (cell === '' ? '–' : cell)).join(' | ')} |\n`;
}

/** Doors with the same around them are one row, in the order of the table. */
export function doorsTable(): string {
  const rows = new Map<string, { readonly doors: string[]; readonly around: Around }>();
  for (const door of doorNames) {
    const { around } = doorEntry(door);
    const key = JSON.stringify(LAYERS.map((layer) => around[layer]));
    const known = rows.get(key);
    if (known === undefined) rows.set(key, { doors: [door], around });
    else known.doors.push(door);
  }
  const everywhere = Object.entries(EVERYWHERE).map(([layer, value]) => `- ${layer}: ${value}\n`);
  const body = [...rows.values()].map(({ doors, around }) =>
    row([doors.map((door) => `\`${door}\``).join(', '), ...LAYERS.map((layer) => around[layer])]),
  );
  return `Behind every door:

${everywhere.join('')}
And by door:

${row(['door', ...LAYERS])}${row(Array.from({ length: LAYERS.length + 1 }, () => '---'))}${body.join('')}`;
}

/** The page with another table. Throws where it has no place for one. */
export function withTable(page: string, table: string): string {
  const [from, to] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (from < 0 || to < from) throw new Error(`docs/security.md has no "${BEGIN}" … "${END}"`);
  return `${page.slice(0, from)}${BEGIN}\n\n${table}\n${page.slice(to)}`;
}

if (import.meta.main) {
  writeFileSync(SECURITY_PAGE, withTable(readFileSync(SECURITY_PAGE, 'utf8'), doorsTable()));
}
