import { stripVTControlCharacters } from 'node:util';

/** Prints rows under headings, columns aligned; control characters in cells are taken out. */
export function printTable(
  headings: readonly string[],
  rows: readonly (readonly string[])[],
): void {
  const all = [headings, ...rows].map((row) => row.map(printable));
  const widths = headings.map((_, column) =>
    Math.max(...all.map((row) => row[column]?.length ?? 0)),
  );
  for (const row of all) {
    const line = row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ');
    process.stdout.write(`${line.trimEnd()}\n`);
  }
}

function printable(cell: string): string {
  return stripVTControlCharacters(cell).replace(/[\u0000-\u001f\u007f]/g, ' ');
}
