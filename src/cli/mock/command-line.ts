import { parseArgs } from 'node:util';
import { defined } from '../../defined.ts';
import type { KilnError } from '../../errors.ts';
import { usageError } from '../../jobs/mock/outcome.ts';
import type { MockLine } from '../../jobs/mock/session.ts';
import { suggest } from '../../suggest.ts';
import { isMode, MODES, type Mode } from './modes.ts';
import { OPTIONS } from './option-table.ts';

export interface CommandLine extends MockLine {
  readonly mode: Mode;
  readonly given: readonly GivenOption[];
  readonly heeded: ReadonlySet<string>;
}

interface GivenOption {
  readonly name: string;
  readonly value: string | undefined;
}

/**
 * Parses mock's command line by its rules: options and arguments in any order, up to `--`; long options may be
 * abbreviated; the last of several modes counts.
 * @throws KilnError E_MOCK_USAGE
 */
export function parseCommandLine(argv: readonly string[]): CommandLine {
  const options = Object.fromEntries(
    [...OPTIONS].map(([name, { short, value }]) => [
      name,
      {
        type: value === undefined ? ('boolean' as const) : ('string' as const),
        multiple: true,
        ...defined({ short }),
      },
    ]),
  );
  const args = completeNames(argv);
  // Not strict: mock accepts a value that begins with a dash, which Node's own checks would refuse.
  const { tokens } = parseArgs({ args, options, strict: false, tokens: true });
  const given: GivenOption[] = [];
  const positionals: string[] = [];
  let mode: Mode | undefined;
  for (const token of tokens) {
    if (token.kind === 'positional') positionals.push(token.value);
    if (token.kind !== 'option') continue;
    const { name, value, rawName } = token;
    const entry = OPTIONS.get(name);
    if (entry === undefined) throw unknownOptionError(rawName);
    check(rawName, name, value);
    given.push({ name, value });
    mode = entry.mode ?? (name === 'scrub' ? 'clean' : mode);
  }
  const [first] = positionals;
  if (mode === undefined && first !== undefined && isMode(first) && MODES[first].bare) {
    mode = first;
    positionals.shift();
  }
  checkModes(mode ?? 'rebuild', given);
  return commandLine(mode ?? 'rebuild', positionals, given);
}

export function commandLine(
  mode: Mode,
  args: readonly string[],
  given: CommandLine['given'],
): CommandLine {
  const heeded = new Set<string>();
  const of = (...names: readonly string[]) => {
    for (const name of names) heeded.add(name);
    return given.filter(({ name }) => names.includes(name));
  };
  return {
    ...{ mode, args, given, heeded, of },
    has: (flag) => of(flag).length > 0,
    value: (wanted) => of(wanted).at(-1)?.value,
    values: (wanted) => of(wanted).map(({ value }) => value ?? ''),
  };
}

function checkModes(mode: Mode, given: readonly GivenOption[]): void {
  for (const { name } of given) {
    const modes = OPTIONS.get(name)?.onlyFor;
    if (modes === undefined || modes.includes(mode)) continue;
    const those = modes.map((it) => `--${it}`).join(', ');
    throw usageError(`--${name} is for ${those}, not for --${mode}`);
  }
}

function check(rawName: string, name: string, value: string | undefined): void {
  const { value: metavar, choices, refused } = OPTIONS.get(name)!;
  if (metavar !== undefined && value === undefined) {
    throw usageError(`${rawName} needs a value: ${rawName} ${metavar}`);
  }
  if (metavar === undefined && value !== undefined) {
    throw usageError(`${rawName} takes no value, and was given ${JSON.stringify(value)}`);
  }
  if (value === '' && ['DIR', 'FILE', 'PATH'].includes(metavar ?? '')) {
    throw usageError(`${rawName}: a path cannot be empty`);
  }
  if (refused !== undefined) throw usageError(`${rawName} is nothing that kiln does`, refused);
  if (name === 'target' && value?.includes(',') === true) {
    throw usageError(`--target option accepts only one arch. Invalid: ${value}`);
  }
  if (choices !== undefined && value !== undefined && !choices.includes(value)) {
    throw usageError(`${rawName} ${value}: it takes ${choices.join(', ')}`);
  }
}

function completeNames(argv: readonly string[]): string[] {
  const complete: string[] = [];
  for (let index = 0; index < argv.length; index++) {
    const argument = argv[index] ?? '';
    if (argument === '--') return [...complete, ...argv.slice(index)];
    const word = completeName(argument);
    complete.push(word);
    if (!takesValue(word) || index + 1 >= argv.length) continue;
    index += 1;
    complete.push(argv[index] ?? '');
  }
  return complete;
}

function completeName(argument: string): string {
  const [, name, rest = ''] = /^--([^=]+)(=.*)?$/s.exec(argument) ?? [];
  if (name === undefined || OPTIONS.has(name)) return argument;
  const candidates = [...OPTIONS.keys()].filter((option) => option.startsWith(name));
  if (candidates.length === 0) return argument;
  if (candidates.length === 1) return `--${candidates[0]}${rest}`;
  throw usageError(`--${name} may be ${candidates.map((it) => `--${it}`).join(', ')}`);
}

/** Whether the next word is the value of this one: `--name`, or letters whose last one takes a value. */
function takesValue(word: string): boolean {
  const long = /^--([^=]+)$/.exec(word)?.[1];
  if (long !== undefined) return OPTIONS.get(long)?.value !== undefined;
  const letters = /^-([A-Za-z]+)$/.exec(word)?.[1] ?? '';
  const first = [...letters].findIndex((letter) =>
    [...OPTIONS.values()].some(({ short, value }) => short === letter && value !== undefined),
  );
  return first !== -1 && first === letters.length - 1;
}

function unknownOptionError(rawName: string): KilnError {
  const near = suggest(rawName.replace(/^-+/, ''), OPTIONS.keys());
  return usageError(
    `there is no option ${rawName}`,
    near === undefined ? undefined : `did you mean --${near}?`,
  );
}
