/** The pages that newcomers read, from top to bottom, on a host that has kiln's .deb and no more: all is typed. */
import { appendFileSync, readFileSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import {
  type Block,
  blocks,
  Conversation,
  commandsOf,
  exchanges,
  TOP,
} from '../../test/docs/blocks.ts';
import { type Page, walk } from './walkthrough-pages.ts';

const WORK = '/var/tmp/walkthrough';

/** Seconds of the machine's own clock, after which a command hangs. */
const LIMIT = 900;

/** Lines of a command's output that are shown where it fails; the report has all. */
const SHOWN = 30;

interface Command {
  /** Of its block, or itself, in the page. */
  readonly line: number;
  readonly text: string;
  readonly user: string;
  readonly variables?: string;
  /** What the page shows below it. */
  readonly output?: readonly string[];
}

export interface Walkthrough {
  /** One result. */
  readonly check: (name: string, work: () => Promise<unknown>) => Promise<void>;
  /** The file that gets all that is typed, and what comes of it. */
  readonly report: string;
  /** Names of pages; none stands for all. */
  readonly only: readonly string[];
}

export async function walkThrough({ check, report, only }: Walkthrough): Promise<void> {
  const skipped: string[] = [];
  for (const page of walk) {
    if (only.length > 0 && !only.includes(page.page)) continue;
    appendFileSync(report, `\n# ${page.page}\n`);
    const reader = new Reader(page, report);
    await check(`${page.page}: what its reader has`, () => reader.begin());
    const conversation = new Conversation();
    for (const command of commandsOfPage(page)) {
      const { text, line, output = [] } = command;
      const [first = ''] = text.split('\n');
      const place = `${page.page}:${line}`;
      const exception = page.exceptions?.find(({ at }) => text.startsWith(at));
      const { before, why, instead = why === undefined ? text : undefined } = exception ?? {};
      if (why !== undefined) skipped.push(`${place}: ${first}: ${why}`);
      if (before !== undefined)
        await check(`${place}: before it: ${before}`, () =>
          reader.type({ ...command, text: before }),
        );
      if (instead === undefined) continue;
      await check(`${place}: ${why === undefined ? first : instead}`, async () => {
        const said = await reader.type({ ...command, text: conversation.say(instead) });
        if (why === undefined) conversation.hear(output, said);
      });
    }
  }
  appendFileSync(report, `\n# Not typed as it stands there\n${skipped.join('\n')}\n`);
}

/** Somebody in a folder of their own. */
class Reader {
  readonly #page: Page;
  readonly #report: string;
  readonly #folder: string;
  #count = 0;
  #cwd: string;

  constructor(page: Page, report: string) {
    this.#page = page;
    this.#report = report;
    const home = page.user === 'root' ? '/root' : `/home/${page.user}`;
    this.#folder = join(home, page.page.replaceAll('/', '-'));
    this.#cwd = this.#folder;
  }

  async begin(): Promise<void> {
    const { user, has = 'true' } = this.#page;
    await mkdir(WORK, { recursive: true, mode: 0o755 });
    await mkdir(this.#folder);
    await this.type({ line: 0, text: has, user: 'root' });
    await execa('chown', ['-R', `${user}:`, this.#folder]);
  }

  /** Types a command, as after a login; returns what it says. @throws Error where it fails */
  async type({ text, user, variables = '' }: Command): Promise<string> {
    this.#count++;
    const script = join(WORK, 'typed.sh');
    const after = join(WORK, `cwd-${user}-${this.#page.page.replaceAll('/', '-')}-${this.#count}`);
    await writeFile(after, '');
    await execa('chown', [user, after]);
    await writeFile(
      script,
      `set -o pipefail\ncd '${this.#cwd}'\n${variables}\n${text}\nstatus=$?\npwd >'${after}'\nexit $status\n`,
    );
    const begun = performance.now();
    const words = ['-k', '10', String(LIMIT), 'su', '-', user, '-c', `bash ${script}`];
    const { all, exitCode } = await execa('timeout', words, {
      ...({ stdin: 'ignore', all: true, reject: false, cwd: '/' } as const),
      ...{ env: { TERM: 'dumb' }, extendEnv: false },
    });
    const seconds = Math.round((performance.now() - begun) / 1000);
    const prompt = user === 'root' ? '#' : '$';
    appendFileSync(
      this.#report,
      `\n${prompt} ${text}\n${all}\n[status ${exitCode}, ${seconds} s]\n`,
    );
    this.#cwd = (await readFile(after, 'utf8')).trim() || this.#cwd;
    if (exitCode !== 0) {
      const end = all.split('\n').slice(-SHOWN).join('\n');
      throw new Error(`it ended with status ${exitCode}:\n${end}`);
    }
    return all;
  }
}

/** All commands of a page in their order, those in its text that the walk names included. */
function commandsOfPage({ page, user, inText = [], further = [] }: Page): Command[] {
  const text = readFileSync(join(TOP, page), 'utf8');
  const named = inText.map((command) => {
    const words = command.split(' ').map((word) => word.replaceAll(/[.*+]/g, '\\$&'));
    const at = text.search(new RegExp(`\`${words.join('\\s+')}\``));
    if (at < 0) throw new Error(`${page} does not say ${command}`);
    return { line: text.slice(0, at).split('\n').length, text: command, user: 'root' };
  });
  const inBlocks = blocks(page).flatMap((block) => commandsOfBlock(block, user));
  const end = text.split('\n').length;
  const last = further.map((command) => ({ line: end, text: command, user: 'root' }));
  return [...[...inBlocks, ...named].sort((a, b) => a.line - b.line), ...last];
}

/** What a runner of CI, or systemd, does with a block counts as typed, too. */
function commandsOfBlock({ language, line, text }: Block, user: string): Command[] {
  // As administration.md says: what is bin/kiln in a checkout is kiln in a package.
  const plain = text.replaceAll('bin/kiln', 'kiln');
  switch (language) {
    case 'console':
      return exchanges(plain).map(({ command, output }) => ({ line, user, text: command, output }));
    case 'sh':
      return commandsOf(plain).map((command) => ({ line, user, text: command }));
    case 'yaml': {
      const variables = plain.includes('runs-on:')
        ? ': >summary.md; export GITHUB_ACTIONS=true GITHUB_STEP_SUMMARY=$PWD/summary.md'
        : 'export GITLAB_CI=true CI_PROJECT_DIR=$PWD';
      const found = [...plain.matchAll(/(?:- run|script): (kiln .*)/g)];
      return found.map(([, command = '']) => ({ line, user, text: command, variables }));
    }
    case 'groovy':
      return [...plain.matchAll(/sh '(.*?)'/g)].map(([, command = '']) => ({
        ...{ line, user, text: command },
      }));
    case 'ini':
      return unitFiles(plain).map((command) => ({ line, user: 'root', text: command }));
    default:
      return [];
  }
}

/** Writes the files that a block has, each below a comment with its path. */
function unitFiles(text: string): string[] {
  return text
    .split(/^(?=# \/)/m)
    .filter((part) => part.startsWith('# /'))
    .map((part) => {
      const path = part.slice(2, part.indexOf('\n'));
      return `mkdir -p ${dirname(path)} && cat >${path} <<'END'\n${part.trimEnd()}\nEND`;
    });
}
