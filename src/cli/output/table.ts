import type { TextOutput } from '../caller/caller.ts';
import { plainText } from './print.ts';

/** Prints rows under headings, columns aligned; control characters in cells are taken out. */
export function printTable(
  to: TextOutput,
  headings: readonly string[],
  rows: readonly (readonly string[])[],
): void {
  const all = [headings, ...rows].map((row) => row.map(printable));
  const widths = headings.map((_, column) =>
    Math.max(...all.map((row) => row[column]?.length ?? 0)),
  );
  const lines = all.map((row) => {
    const line = row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ');
    return `${line.trimEnd()}\n`;
  });
  // At once: a write for each takes longer than to make it.
  to.say(lines.join(''));
}

/** On one line. */
function printable(cell: string): string {
  return plainText(cell).replace(/[\t\n]/g, ' ');
}
