/** Writes docs/doors.md from the table that test/doors measures; a test compares. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Around, doorEntry, doorNames, EVERYWHERE, LAYERS } from '../../test/doors/table.ts';

export const DOORS_PAGE = join(import.meta.dirname, '../../docs/doors.md');

function row(cells: readonly string[]): string {
  return `| ${cells.map((cell) => (cell === '' ? '–' : cell)).join(' | ')} |\n`;
}

/** The text of docs/doors.md. Doors with the same layers around them are one row, in the order of the table. */
export function doorsPage(): string {
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
  return `<!-- Written by scripts/write/doors.ts from test/doors/table.ts. Do not edit. -->
# Doors: the layers around each way into a sandbox

One program goes into a sandbox by each of these ways and tries all layers from inside (\`test/doors\`). This
page lists what it must find. A way in, or a layer, that is not in the table fails the test.
[security.md](security.md) says what each layer is for.

## Behind every door

${everywhere.join('')}
## By door

${row(['door', ...LAYERS])}${row(Array.from({ length: LAYERS.length + 1 }, () => '---'))}${body.join('')}`;
}

if (import.meta.main) writeFileSync(DOORS_PAGE, doorsPage());
