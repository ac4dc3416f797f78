/** What the runners of CI services do with the lines of a job's log: their documented rules, not kiln's code. */

/** Commands that GitHub's runner knows: https://docs.github.com/actions/reference/workflow-commands-for-github-actions */
const KNOWN = [
  ...['stop-commands', 'add-mask', 'add-matcher', 'remove-matcher', 'add-path', 'set-env'],
  ...['set-output', 'save-state', 'debug', 'notice', 'warning', 'error', 'group', 'endgroup'],
  'echo',
];

/** A runner of GitHub's that has read some lines. */
export class GithubRunner {
  /** The commands that were executed, without `stop-commands` and its end. */
  readonly executed: string[] = [];
  /** The lines that were read while commands were executed, and that were none. */
  readonly open: string[] = [];
  #token: string | undefined;

  get isStopped(): boolean {
    return this.#token !== undefined;
  }

  read(text: string): this {
    for (const line of text.split(/\r\n|\r|\n/)) this.#line(line);
    return this;
  }

  #line(line: string): void {
    const known = this.#token === undefined ? KNOWN : [...KNOWN, this.#token];
    // `::name key=value::data` after blanks, or the older `##[name key=value]data` anywhere in a line.
    const [, name = '', data = ''] =
      /^\s*::([^\s:]+)(?: [^:]*(?::(?!:)[^:]*)*)?::(.*)$/.exec(line) ??
      /##\[([^\s\]]+)[^\]]*\](.*)$/.exec(line) ??
      [];
    const isKnown = known.some((one) => one.toLowerCase() === name.toLowerCase());
    if (this.#token !== undefined) {
      if (isKnown && name.toLowerCase() === this.#token.toLowerCase()) this.#token = undefined;
    } else if (!isKnown) this.open.push(line);
    else if (name.toLowerCase() === 'stop-commands') this.#token = data;
    else this.executed.push(line);
  }
}

/** The names of sections that GitLab sees: https://docs.gitlab.com/ci/jobs/job_logs/#custom-collapsible-sections */
export function gitlabSections(text: string): string[] {
  const marker = /section_(start|end):\d+:([a-zA-Z0-9_.-]+)(?:\[[^\]]*\])?\r\u001b\[0K/g;
  return [...text.matchAll(marker)].map(([, which, name]) => `${which} ${name}`);
}
