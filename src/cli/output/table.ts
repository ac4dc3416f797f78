import { styleText } from 'node:util';
import { KilnError } from '../../errors.ts';
import { flag, text } from '../../options/kind.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { choice } from '../../options/texts.ts';
import type { TextOutput } from './print.ts';
import { plainText, printJson } from './print.ts';

/** @param template an example of the table's columns */
export function listing(template: string, json = 'print one JSON array instead of a table') {
  return {
    json: row(flag, 'open', { help: json }),
    format: row(text('template'), 'open', {
      help: `print each row by this template of the table's columns, such as '${template}'; json is --json`,
    }),
    quiet: row(flag, 'open', {
      help: 'print results, warnings and errors only: the first column, without headings',
      short: 'q',
    }),
  };
}

/** Of what is no table. @param how what it prints */
export function jsonFormat(how: string) {
  return row(choice('format', ['json']), 'open', { help: how });
}

export type ListOptions = ValuesOf<ReturnType<typeof listing>>;

export function isJson({ json, format }: Pick<ListOptions, 'json' | 'format'>): boolean {
  return json === true || format === 'json';
}

/** Whether people read it: nothing but rows is for programs. */
export function isTable({ json, format, quiet }: ListOptions): boolean {
  return json !== true && format === undefined && quiet !== true;
}

export type Columns<Row> = readonly (readonly [heading: string, value: (row: Row) => string])[];

export function printRows<Row>(
  to: TextOutput,
  columns: Columns<Row>,
  rows: readonly Row[],
  options: ListOptions,
  shown: (row: Row) => unknown = (row) => row,
): void {
  const { format, quiet } = options;
  if (isJson(options)) {
    printJson(to, rows.map(shown));
    return;
  }
  if (quiet === true) {
    const [first] = columns;
    to.say(rows.map((row) => `${first?.[1](row)}\n`).join(''));
    return;
  }
  if (format === undefined) {
    const headings = columns.map(([heading]) => heading);
    const cells = rows.map((row) => columns.map(([, value]) => value(row)));
    printTable(to, headings, cells);
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

export function printTable(
  to: TextOutput,
  headings: readonly string[],
  rows: readonly (readonly string[])[],
  style?: (row: readonly string[]) => Parameters<typeof styleText>[0] | undefined,
): void {
  const all = [headings, ...rows];
  const lines = aligned(all).map((line, at) => {
    const how = style?.(all[at] ?? []);
    return `${how === undefined ? line : styleText(how, line, { validateStream: false })}\n`;
  });
  // At once: a write for each row takes longer than making the table.
  if (style === undefined) to.say(lines.join(''));
  else to.write(lines.join(''));
}

/** A plain line for each row, with the cells of a column below each other; a row of one cell has no columns. */
export function aligned(rows: readonly (readonly string[])[]): string[] {
  const all = rows.map((row) => row.map((cell) => plainText(cell).replace(/[\t\n]/g, ' ')));
  const widths: number[] = [];
  for (const row of all.filter(({ length }) => length > 1)) {
    for (const [at, cell] of row.entries()) widths[at] = Math.max(widths[at] ?? 0, cell.length);
  }
  const padded = (cell: string, at: number) => cell.padEnd(widths[at] ?? 0);
  return all.map((row) => row.map(padded).join('  ').trimEnd());
}
