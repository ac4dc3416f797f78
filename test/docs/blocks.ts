/** The fenced blocks of README.md, CONTRIBUTING.md and docs, with what a comment before a block says about running it. */
import { spawnSync } from 'node:child_process';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export const TOP = join(import.meta.dirname, '../..');

/** Languages whose blocks a reader types: the docs runner executes them. */
const TYPED = ['sh', 'console'];

export interface Block {
  readonly page: string;
  /** Of its first line in the page, from 1. */
  readonly line: number;
  readonly language: string;
  readonly text: string;
  /** Why it is not run: `<!-- not run: REASON -->` in the line before. */
  readonly notRun?: string | undefined;
  /** Run by `scripts/test --long` only: `<!-- long -->`. */
  readonly long: boolean;
}

/** Every page that people read, relative to the checkout. */
export function pages(): string[] {
  return globSync(['README.md', 'CONTRIBUTING.md', 'docs/**/*.md'], { cwd: TOP }).sort();
}

/** All fenced blocks of a page. */
export function blocks(page: string): Block[] {
  const text = readFileSync(join(TOP, page), 'utf8');
  const fences = text.matchAll(
    /^(?: *<!-- (?<mark>long|not run: [^\n]+) -->\n)?(?<indent> *)```(?<language>\w*)\n(?<body>.*?)^\k<indent>```$/gms,
  );
  return [...fences].map(({ index, groups = {} }) => {
    const { mark, language = '', body = '', indent = '' } = groups;
    const before = text.slice(0, index).split('\n').length;
    return {
      page,
      line: before + (mark === undefined ? 1 : 2),
      language,
      text: body.replaceAll(new RegExp(`^${indent}`, 'gm'), ''),
      notRun: /^not run: (.*)/.exec(mark ?? '')?.[1],
      long: mark === 'long',
    };
  });
}

/** The blocks of a page that readers type. */
export function commandBlocks(page: string): Block[] {
  return blocks(page).filter(({ language }) => TYPED.includes(language));
}

/** One command of a console block, and the output that the page shows below it. */
export interface Exchange {
  readonly command: string;
  readonly output: readonly string[];
}

/** Splits a console block: `$ ` begins a command, `> ` continues it, all else is output. */
export function exchanges(text: string): Exchange[] {
  const result: { command: string; output: string[] }[] = [];
  for (const line of text.trimEnd().split('\n')) {
    const last = result.at(-1);
    if (line.startsWith('$ ')) result.push({ command: line.slice(2), output: [] });
    else if (last === undefined) throw new Error(`output without a command: ${line}`);
    else if (line.startsWith('> ')) last.command += `\n${line.slice(2)}`;
    else last.output.push(line);
  }
  return result;
}

/** A sandbox's id, or what a page has for one. */
const ID = /\b(?=[a-f]*\d)[0-9a-f]{10}\b/g;

/** A pattern for output as a page shows it: `…` stands for anything, a sandbox's id for any id. */
export function pattern(output: readonly string[]): RegExp {
  const source = output
    .join('\n')
    .replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')
    .replaceAll('…', '.*?')
    .replaceAll(ID, '([0-9a-f]{10})');
  return new RegExp(`^${source}\\s*$`, 's');
}

/** A page's exchanges, had again: where it names the id of a sandbox, the id that a command printed in its place. */
export class Conversation {
  readonly #ids = new Map<string, string>();

  /** A command of the page, as it is to be typed. */
  say(command: string): string {
    return command.replaceAll(ID, (id) => this.#ids.get(id) ?? id);
  }

  /** @param output what the page shows, nothing where it shows none @throws Error where `said` is something else */
  hear(output: readonly string[], said: string): void {
    if (output.length === 0) return;
    const match = pattern(output).exec(said);
    if (match === null) throw new Error(`it prints\n${said}\nnot\n${output.join('\n')}`);
    const shown = output.join('\n').match(ID) ?? [];
    for (const [at, id] of shown.entries()) this.#ids.set(id, match[at + 1] ?? id);
  }
}

/** The commands of a block for sh, without its comments: each ends where bash would begin to execute it. */
export function commandsOf(text: string): string[] {
  const result: string[] = [];
  let begun = '';
  for (const line of text.trimEnd().split('\n')) {
    begun += begun === '' ? line : `\n${line}`;
    if (!isWhole(begun)) continue;
    if (!/^\s*(?:#|$)/.test(begun) || begun.includes('\n')) result.push(begun);
    begun = '';
  }
  if (begun !== '') throw new Error(`a command without its end: ${begun}`);
  return result;
}

/** Whether bash would wait for no further line. */
function isWhole(text: string): boolean {
  if (text.endsWith('\\')) return false;
  const { status, stderr } = spawnSync('bash', ['-n', '-c', text], {
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C' },
  });
  return status === 0 && !stderr.includes('here-document');
}
