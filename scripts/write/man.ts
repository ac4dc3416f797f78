/** Man pages of kiln's commands, in the macros of man(7). */
import type { CommandDescription, OptionDescription } from './describe.ts';

const SIGNS: Readonly<Record<string, string>> = {
  '\\': '\\e',
  '-': '\\-',
  '’': '\\(cq',
  "'": '\\(aq',
  '“': '\\(lq',
  '”': '\\(rq',
  '^': '\\(ha',
  '~': '\\(ti',
  '`': '\\(ga',
  '…': '...',
};

/** Text in which no sign means something to roff; it may begin a line. */
export function plain(text: string): string {
  const escaped = text.replaceAll(/[\\\-’'“”^~`…]/g, (sign) => SIGNS[sign] ?? sign);
  const ascii = escaped.replaceAll(/[^\n -~]/gu, (sign) => {
    const code = sign.codePointAt(0)?.toString(16).toUpperCase() ?? '';
    return `\\[u${code.padStart(4, '0')}]`;
  });
  return ascii.replaceAll(/^\./gm, '\\&.');
}

/** Prose: what is between backticks is bold. A full stop ends a line, as roff has it. */
export function prose(text: string): string {
  const parts = text
    .split('`')
    .map((part, at) => (at % 2 === 1 ? `\\fB${plain(part)}\\fR` : plain(part)));
  return wrapped(parts.join('').replaceAll(/([.:;]) +(?=\S)/g, '$1\n'));
}

/** Bytes of a line of input: mandoc asks for it. */
const WIDTH = 78;

/** Breaks lines at spaces. A line that would begin with a full stop would be a macro. */
function wrapped(text: string): string {
  const lines = text.split('\n').flatMap((line) => {
    const made: string[] = [];
    for (const word of line.split(/ +/)) {
      const last = made.at(-1);
      if (last === undefined || last.length + 1 + word.length > WIDTH) made.push(word);
      else made[made.length - 1] = `${last} ${word}`;
    }
    return made;
  });
  return lines.map((line) => line.replace(/^\./, '\\&.')).join('\n');
}

export function verbatim(lines: readonly string[]): string {
  return `.EX\n${plain(lines.join('\n'))}\n.EE\n`;
}

/** Only words of letters are emphasised: names of values. */
function flags(text: string): string {
  return plain(text).replaceAll(
    /(?<![A-Za-z])((?:\\-)+[A-Za-z](?:[A-Za-z0-9_]|\\-)*)/g,
    '\\fB$1\\fR',
  );
}

function option({ flags: text, help, value, preset }: OptionDescription): string {
  const choices =
    value === undefined || value.choices.length === 0 ? '' : ` (${value.choices.join(', ')})`;
  const byDefault = preset === undefined ? '' : `; by default ${preset}`;
  return `.TP\n${flags(text)}\n${prose(`${help}${choices}${byDefault}`)}\n`;
}

interface NoteBlock {
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

/** Notes of a command: examples have a heading of their own where the command has a page of its own. */
function notes(command: CommandDescription, heading: '.SH' | '.B'): string {
  return noteBlocks(command.notes)
    .map(({ title, lines, isVerbatim }) => {
      const named = heading === '.SH' ? title.toUpperCase() : title;
      const above =
        title === ''
          ? '.PP\n'
          : heading === '.SH'
            ? `.SH ${plain(named)}\n`
            : `.PP\n.B ${plain(named)}\n.PP\n`;
      return above + (isVerbatim ? verbatim(lines) : `${prose(lines.join(' '))}\n`);
    })
    .join('');
}

function argumentsOf(command: CommandDescription): string {
  return command.arguments
    .map(({ name, help, isVariadic, choices }) => {
      const of = choices.length === 0 ? '' : ` (${choices.join(', ')})`;
      return `.TP\n\\fI${plain(name)}\\fR${isVariadic ? '...' : ''}\n${prose(help + of)}\n`;
    })
    .join('');
}

function usage(command: CommandDescription): string {
  return command.usage.map((line) => `${wrapped(flags(line))}\n`).join('.br\n');
}

/** A command below the one of the page. */
function subcommand(command: CommandDescription): string {
  return [
    `.SS ${plain(command.program)}\n`,
    usage(command),
    '.PP\n',
    `${prose(command.description)}\n`,
    argumentsOf(command),
    ...command.options.map(option),
    notes(command, '.B'),
    ...command.commands.map(subcommand),
  ].join('');
}

/** `kiln-image` of `kiln image`. */
export function pageName({ program }: CommandDescription): string {
  return program.replaceAll(' ', '-');
}

/** Those of kiln's commands that have a page. */
export function withPages(kiln: CommandDescription): CommandDescription[] {
  return kiln.commands.filter(({ program }) => program !== 'kiln help');
}

export const DOCUMENTATION =
  '.SH DOCUMENTATION\nPages that are named docs/... lie in\n.I /usr/share/doc/kiln/docs\nwhere a package of the system brought kiln, else in its own folder.\n';

function page(
  command: CommandDescription,
  { date, version, seeAlso, middle }: PageSettings & { middle: string },
): string {
  const name = pageName(command);
  const others = seeAlso.filter((other) => other !== name);
  const references = others.map(
    (other, at) => `.BR ${plain(other)} (1)${at === others.length - 1 ? '' : ' ,'}\n`,
  );
  return [
    '.\\" Written by scripts/write/man.ts from the options of the command line.\n',
    `.TH ${plain(name.toUpperCase())} 1 ${date} "kiln ${version}" "kiln"\n`,
    `.SH NAME\n${plain(name)} \\- ${plain(command.summary)}\n`,
    `.SH SYNOPSIS\n${usage(command)}`,
    `.SH DESCRIPTION\n${prose(command.description)}\n`,
    middle,
    command.options.length === 0 ? '' : `.SH OPTIONS\n${command.options.map(option).join('')}`,
    notes(command, '.SH'),
    DOCUMENTATION,
    `.SH SEE ALSO\n${references.join('')}`,
  ].join('');
}

export interface PageSettings {
  /** As 2026-11-27. */
  readonly date: string;
  readonly version: string;
  readonly seeAlso: readonly string[];
}

/** All pages, by their names without the section: kiln(1), and one for each of its commands. */
export function manPages(
  kiln: CommandDescription,
  settings: Pick<PageSettings, 'date' | 'version'>,
): ReadonlyMap<string, string> {
  const commands = withPages(kiln);
  const all = { ...settings, seeAlso: ['kiln', ...commands.map(pageName)] };
  const list = commands.map(
    (command) => `.TP\n.BR ${plain(pageName(command))} (1)\n${plain(command.summary)}\n`,
  );
  const pages = commands.map((command) => {
    const subs = command.commands.map(subcommand).join('');
    const middle = [
      command.arguments.length === 0 ? '' : `.SH ARGUMENTS\n${argumentsOf(command)}`,
      subs === '' ? '' : `.SH COMMANDS\n${subs}`,
    ].join('');
    return [pageName(command), page(command, { ...all, middle })] as const;
  });
  const middle = `.SH COMMANDS\n${list.join('')}`;
  return new Map([['kiln', page(kiln, { ...all, middle })], ...pages]);
}
