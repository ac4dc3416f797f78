import { Option } from 'commander';
import type { Source } from '../../options/kinds.ts';
import { flagOf, type Row, type Rows } from '../../options/row.ts';
import type { KilnCommand } from './command.ts';

type Parse<Value> = (text: string) => Value;

export function parsed(flags: string, description: string, parse: Parse<unknown>): Option {
  return new Option(flags, description).argParser(parse);
}

/** @param parse undefined for what counts for nothing */
export function repeated<Value>(
  flags: string,
  description: string,
  parse: Parse<Value | undefined>,
): Option {
  return new Option(flags, description)
    .argParser((text: string, before: Value[] = []) => {
      const value = parse(text);
      return value === undefined ? before : [...before, value];
    })
    .default([] as Value[], 'none');
}

export function some<Value>(values: readonly Value[]): Value[] | undefined {
  return values.length === 0 ? undefined : [...values];
}

const NOWHERE: Source = { env: {}, cwd: () => '/', variable: () => undefined };

/** @param from left out for a kind that needs none */
export function optionOf(name: string, row: Row, from = NOWHERE): Option {
  const { kind, short, many, help, usual, variable, preset, term = kind.term } = row;
  const flags = `${short === undefined ? '' : `-${short}, `}${flagOf(name, row)}`;
  const read = (text: string) => kind.read(text, from);
  if (term === undefined) return new Option(flags, help);
  if (many) return repeated(`${flags} <${term}>`, help, read);
  const option = parsed(`${flags} ${preset === undefined ? `<${term}>` : `[${term}]`}`, help, read);
  if (preset !== undefined) option.preset(preset);
  if (kind.choices !== undefined) option.choices(kind.choices);
  return option.default((variable && from.env[variable]) || usual);
}

export function addOptions(command: KilnCommand, rows: Rows, from?: Source): KilnCommand {
  for (const [name, row] of Object.entries(rows)) command.addOption(optionOf(name, row, from));
  return command;
}
