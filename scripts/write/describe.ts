/** kiln's commands and options as plain data: man pages, docs/reference and completions are made of it. */
import type { Command, Option } from 'commander';
import { processCaller } from '../../src/cli/caller/process-caller.ts';
import { wholeKiln } from '../../src/cli/commands.ts';
import type { Listed } from '../../src/cli/completion.ts';
import {
  MOCK_ABOUT,
  MOCK_AFTER,
  MOCK_USAGE,
  OPTION_GROUPS,
  type OptionEntry,
} from '../../src/cli/mock/option-table.ts';

export interface OptionDescription {
  readonly flags: string;
  readonly names: readonly string[];
  readonly help: string;
  readonly value: ValueDescription | undefined;
  readonly preset: string | undefined;
  readonly isRepeatable: boolean;
}

export interface NamedValue {
  readonly name: string;
  readonly choices: readonly string[];
  /** What has ended is not meant. */
  readonly isLive?: boolean;
  /** An id of a detached job. */
  readonly isJob?: boolean;
}

interface ValueDescription extends NamedValue {
  /** It follows `=`, or is left out. */
  readonly isOptional: boolean;
}

export interface ArgumentDescription extends NamedValue {
  readonly help: string;
  readonly isVariadic: boolean;
}

export interface CommandDescription {
  readonly words: readonly string[];
  readonly program: string;
  readonly summary: string;
  readonly description: string;
  readonly usage: readonly string[];
  readonly arguments: readonly ArgumentDescription[];
  readonly options: readonly OptionDescription[];
  readonly commands: readonly CommandDescription[];
  readonly notes: string;
  /** What follows its first argument belongs to the command in the sandbox. */
  readonly passesThrough: boolean;
}

function describe(
  command: Command,
  words: readonly string[] = [],
  summary: string = command.summary(),
): CommandDescription {
  const help = command.createHelp();
  const program = ['kiln', ...words].join(' ');
  return {
    words,
    program,
    summary: summary || asSummary(command.description()),
    description: command.description(),
    usage: `${program} ${command.usage()}`.trim().split(/\n */),
    arguments: command.registeredArguments.map((argument) => ({
      name: argument.name(),
      help: argument.description,
      isVariadic: argument.variadic,
      choices: argument.argChoices ?? [],
      isLive: LIVE.has(words.join(' ')),
      isJob: OF_JOBS.has(words.join(' ')),
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

const SUMMARY = 'run a command or a build in a locked-down sandbox';

/** All commands as they are by default, whatever the environment says here. */
export async function describedByDefault(): Promise<CommandDescription> {
  const kiln = describe(await wholeKiln({ ...processCaller, env: {} }), [], SUMMARY);
  const isMock = ({ words }: CommandDescription) => words[0] === 'mock';
  return {
    ...kiln,
    commands: kiln.commands.map((command) => (isMock(command) ? describeMock() : command)),
  };
}

function describeMock(): CommandDescription {
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

export function withSubcommands(command: CommandDescription): CommandDescription[] {
  return [command, ...command.commands.flatMap(withSubcommands)];
}

/** Commands for sandboxes and jobs that have not ended. */
const LIVE: ReadonlySet<string> = new Set(['exec', 'kill', 'shell', 'stop', 'stats', 'top']);

/** Commands whose ids are those of detached jobs. */
const OF_JOBS: ReadonlySet<string> = new Set(['attach', 'logs', 'results', 'wait']);

/** What may be a file of the host as well. */
export const ALSO_FILES: readonly string[] = ['image', 'recipe', 'profile'];

/**
 * `file` and `folder`: of the host. `text`: nothing is known about it.
 * `command`: what follows is the sandbox's.
 */
export type ValueKind = Listed | 'file' | 'folder' | 'command' | 'text';

/** By the name in help, in small letters; what follows the first sign that is no letter does not count. */
const KINDS: Readonly<Record<string, ValueKind>> = {
  image: 'image',
  recipe: 'recipe',
  config: 'recipe',
  source: 'recipe',
  id: 'sandbox',
  snapshot: 'snapshot',
  origin: 'origin',
  service: 'service',
  command: 'command',
  file: 'file',
  path: 'file',
  src: 'file',
  from: 'file',
  to: 'file',
  profile: 'profile',
  step: 'file',
  script: 'file',
  dir: 'folder',
  folder: 'folder',
};

const TEXTS: ReadonlySet<string> = new Set(
  `addr arch capability chain check condition count digest dst glob host how key keys kind label layer lines macro name
  network number option options package phases plugin rate repo repository seconds setting shell size spec stage
  status target template text time uid unit uri url user what word`.split(/\s+/),
);

/** What a value is. @throws Error for a name that is in neither list: add it to one of them */
export function valueKind(value: NamedValue): ValueKind {
  const { name, choices } = value;
  const [word = ''] = /[a-z]+/.exec(name.toLowerCase()) ?? [];
  if (name === 'name=file' || choices.length > 0) return 'text';
  const kind = KINDS[word] ?? (TEXTS.has(word) ? 'text' : undefined);
  if (kind === 'sandbox' && value.isLive === true) return 'live';
  if (kind === 'sandbox' && value.isJob === true) return 'job';
  if (kind !== undefined) return kind;
  throw new Error(`scripts/write/describe.ts does not say what a value called ${name} is`);
}
