import { Option } from 'commander';
import { KilnError } from '../../errors.ts';
import type { TextOutput } from '../caller/caller.ts';
import { plainText } from './print.ts';

/** Options of a command that lists things. */
export interface ListOptions {
  readonly json?: boolean;
  readonly format?: string;
}

/** `--format`, as podman and docker have it, for fields alone. */
export function formatOption(): Option {
  return new Option(
    '--format <template>',
    "print each row by this template of the table's columns, such as '{{.ID}} {{.State}}'",
  );
}

/** What a list shows: columns of a table, of which templates take values by their headings. */
export type Columns<Row> = readonly (readonly [heading: string, value: (row: Row) => string])[];

/** Prints rows as a table, or as `format` says. @throws KilnError E_ARGUMENT for a field that there is not */
export function printRows<Row>(
  to: TextOutput,
  columns: Columns<Row>,
  rows: readonly Row[],
  { format }: Pick<ListOptions, 'format'>,
): void {
  if (format === undefined) {
    const cells = rows.map((row) => columns.map(([, value]) => value(row)));
    printTable(
      to,
      columns.map(([heading]) => heading),
      cells,
    );
    return;
  }
  const template = format.replaceAll('\\t', '\t').replaceAll('\\n', '\n');
  // Before any row, so that a mistake is told where there is none.
  const parts = template
    .split(/\{\{\s*\.([^{}]*?)\s*\}\}/)
    .map((part, at) => (at % 2 === 1 ? field(columns, part) : () => part));
  to.say(rows.map((row) => `${parts.map((part) => part(row)).join('')}\n`).join(''));
}

/** Headings with a space lose it: `.LastUse`. */
function field<Row>(columns: Columns<Row>, name: string): (row: Row) => string {
  const known = columns.map(([heading, value]) => [heading.replaceAll(' ', ''), value] as const);
  const found = known.find(([heading]) => heading === name.toUpperCase());
  if (found !== undefined) return found[1];
  throw new KilnError('E_ARGUMENT', `--format: there is no field .${name}`, {
    hint: `the fields are ${known.map(([heading]) => `.${heading}`).join(', ')}`,
  });
}

/** Prints aligned columns under headings, without control characters. */
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
  // In one write: a write for each row takes longer than making the table.
  to.say(lines.join(''));
}

/** The cell on one line. */
function printable(cell: string): string {
  return plainText(cell).replace(/[\t\n]/g, ' ');
}

/** Bytes as `12.5M` or `1.5G`, in powers of 1024. */
export function sizeText(bytes: number): string {
  const mebibytes = bytes / 2 ** 20;
  return mebibytes < 1024 ? `${mebibytes.toFixed(1)}M` : `${(mebibytes / 1024).toFixed(1)}G`;
}
