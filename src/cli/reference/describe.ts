/** kiln's commands and options as plain data: man pages, docs/reference and completions are made of it. */
import type { Command, Option } from 'commander';
import { MOCK_ABOUT, MOCK_AFTER, MOCK_USAGE } from '../mock/help.ts';
import { OPTION_GROUPS, type OptionEntry } from '../mock/option-table.ts';

export interface OptionDescription {
  /** As help shows them: `-r, --image <image>`, `--keep[=time]`. */
  readonly flags: string;
  /** `-r`, `--image`: what a command line may have. */
  readonly names: readonly string[];
  readonly help: string;
  /** Undefined if it takes no value. */
  readonly value: ValueDescription | undefined;
  /** The default, in words. */
  readonly preset: string | undefined;
  readonly isRepeatable: boolean;
}

export interface ValueDescription {
  /** `image` of `<image>`: src/cli/reference/value-kinds.ts says what it is. */
  readonly name: string;
  /** It follows `=`, or is left out. */
  readonly isOptional: boolean;
  readonly choices: readonly string[];
}

export interface ArgumentDescription {
  readonly name: string;
  readonly help: string;
  readonly isVariadic: boolean;
  readonly choices: readonly string[];
}

export interface CommandDescription {
  /** `image`, `build`; none for kiln itself. */
  readonly words: readonly string[];
  /** The name in a shell: `kiln image build`, `kiln-mock`. */
  readonly program: string;
  /** A phrase, without a full stop. */
  readonly summary: string;
  readonly description: string;
  /** One line for each form. */
  readonly usage: readonly string[];
  readonly arguments: readonly ArgumentDescription[];
  readonly options: readonly OptionDescription[];
  readonly commands: readonly CommandDescription[];
  /** Examples and notes, as help shows them. */
  readonly notes: string;
  /** What follows its first argument belongs to the command in the sandbox. */
  readonly passesThrough: boolean;
}

/** Describes a command and those below it, without hidden ones. */
export function describe(
  command: Command,
  words: readonly string[] = [],
  summary: string = command.summary(),
): CommandDescription {
  const help = command.createHelp();
  const program = ['kiln', ...words].join(' ');
  const [own = '', ...others] = `${program} ${command.usage()}`.trim().split('\n');
  return {
    words,
    program,
    summary: summary || asSummary(command.description()),
    description: command.description(),
    usage: [own, ...others],
    arguments: command.registeredArguments.map((argument) => ({
      name: argument.name(),
      help: argument.description,
      isVariadic: argument.variadic,
      choices: argument.argChoices ?? [],
    })),
    options: help
      .visibleOptions(command)
      .map((option) => describeOption(option, help.optionTerm(option))),
    commands: help
      .visibleCommands(command)
      // `kiln image help` is commander's own; `kiln help image` prints the same.
      .filter((sub) => sub.name() !== 'help' || words.length === 0)
      .map((sub) => describe(sub, [...words, sub.name()])),
    notes: notesOf(command),
    passesThrough: command.registeredArguments.some((argument) => argument.name() === 'command'),
  };
}

/** Describes kiln-mock, whose option table is its own. */
export function describeMock(): CommandDescription {
  return {
    words: ['mock'],
    program: 'kiln-mock',
    summary: 'accept the command line of mock',
    description: MOCK_ABOUT.trim().replaceAll('\n', ' '),
    usage: MOCK_USAGE.trim()
      .split('\n')
      .map((line) => line.replace(/^(?:Usage:)? +/, '')),
    arguments: [{ name: 'source', help: 'what the mode works on', isVariadic: true, choices: [] }],
    options: OPTION_GROUPS.flatMap(([, entries]) =>
      Object.entries(entries).map(([name, entry]) => describeMockOption(name, entry)),
    ),
    commands: [],
    notes: MOCK_AFTER,
    passesThrough: false,
  };
}

/** `List images, the most recently used first.` as `list images, the most recently used first`. */
function asSummary(description: string): string {
  const [first = ''] = description.split(/\.(?: |$)|; |, or /);
  return first.charAt(0).toLowerCase() + first.slice(1);
}

function describeOption(option: Option, flags: string): OptionDescription {
  const { short, long, description, argChoices = [], defaultValue } = option;
  const takesValue = option.required || option.optional;
  const [, name = ''] = /[<[](.*)[>\]]$/.exec(option.flags) ?? [];
  const preset =
    option.defaultValueDescription ??
    (defaultValue === undefined || defaultValue === false ? undefined : String(defaultValue));
  return {
    flags,
    names: [short, long].filter((each) => each !== undefined),
    help: description,
    value: takesValue
      ? { name, isOptional: option.optional && !option.required, choices: argChoices }
      : undefined,
    // Flags that begin with --no- are on by default, and their help says so.
    preset: takesValue && preset !== 'none' ? preset : undefined,
    isRepeatable: Array.isArray(defaultValue),
  };
}

function describeMockOption(name: string, entry: OptionEntry): OptionDescription {
  const { short, value, choices = [], help = '' } = entry;
  const names = [...(short === undefined ? [] : [`-${short}`]), `--${name}`];
  return {
    flags: value === undefined ? names.join(', ') : `${names.join(', ')} ${value}`,
    names,
    help,
    value: value === undefined ? undefined : { name: value, isOptional: false, choices },
    preset: undefined,
    isRepeatable: true,
  };
}

/** The text below the options in help. */
function notesOf(command: Command): string {
  let text = '';
  command.configureOutput({
    writeOut: (more) => {
      text += more;
    },
    getOutHelpWidth: () => 80,
  });
  command.outputHelp();
  return text.slice(command.helpInformation().length);
}

/** A part of the notes: text that may be filled, or lines that stay as they are. */
export interface NoteBlock {
  readonly title: string;
  readonly lines: readonly string[];
  readonly isVerbatim: boolean;
}

/** Splits notes at empty lines; a line that ends with a colon is the title of the indented lines below it. */
export function noteBlocks(notes: string): NoteBlock[] {
  const paragraphs = notes
    .trim()
    .split(/\n{2,}/)
    .filter((text) => text !== '');
  return paragraphs.map((paragraph) => {
    const [first = '', ...rest] = paragraph.split('\n');
    const isTitled =
      first.endsWith(':') && rest.length > 0 && rest.every((line) => /^ {2}/.test(line));
    if (isTitled) {
      const lines = rest.map((line) => line.slice(2));
      return { title: first.slice(0, -1), lines, isVerbatim: true };
    }
    const lines = [first, ...rest];
    return { title: '', lines, isVerbatim: lines.some((line) => line.startsWith(' ')) };
  });
}
