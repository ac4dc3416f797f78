/** What both runners need: a job of theirs has one kept sandbox, which each of its steps enters. */
import { KilnError } from '../../errors.ts';
import { statePaths } from '../../host/state/paths.ts';
import { text } from '../../options/kind.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { listSandboxes } from '../../sandbox/domain/sandbox-record.ts';
import { type Caller, requireHost } from '../caller/caller.ts';
import type { KilnCommand } from '../options/command.ts';

/**
 * Does what a command line of kiln's says: its rules, for users as well, hold for what a runner wants. What kiln
 * cannot do is thrown, and how a command ended is the caller's exit status.
 */
export type Kiln = (argv: readonly string[], caller: Caller) => Promise<void>;

/** The word before a job's token in the command that opens its sandbox: `kiln ps` shows it. */
const MARK = 'ci-job';

/** Longer than jobs of GitHub's (6 h) and GitLab's (1 h) may take unless somebody says otherwise. */
const KEEP = '--keep=7h';

/** What the opening command exits with in an Alpine, whose programs are built for another C library. */
const ALPINE = 42;
const OPENING = `test ! -r /etc/os-release || . /etc/os-release; test "$ID" != alpine || exit ${ALPINE}`;

export class JobSandbox {
  readonly #token: string;
  readonly #caller: Caller;
  readonly #kiln: Kiln;

  /** @param token of this job alone, which nobody else can guess */
  constructor(token: string, caller: Caller, kiln: Kiln) {
    this.#token = token;
    this.#caller = caller;
    this.#kiln = kiln;
  }

  /** @param options of `kiln run` @throws KilnError E_CI_JOB; why, has been printed */
  async open(options: readonly string[]): Promise<{ readonly isAlpine: boolean }> {
    // A runner that tries again must not leave the first one behind.
    await this.end();
    const command = ['/bin/sh', '-c', OPENING, MARK, this.#token];
    await this.#kiln(['run', KEEP, '--entrypoint', '', ...options, '--', ...command], this.#caller);
    const status = this.#caller.exitStatus;
    if (status === 0 || status === ALPINE) return { isAlpine: status === ALPINE };
    await this.end();
    throw new KilnError('E_CI_JOB', 'the sandbox of the job could not be opened', {
      hint: 'what kiln said before tells why',
    });
  }

  /** @param options of `kiln exec` @returns the command's exit status @throws what `kiln exec` throws */
  async execute(options: readonly string[], argv: readonly string[]): Promise<number> {
    const [id] = await this.#find();
    if (id === undefined) {
      throw new KilnError('E_CI_JOB', 'the sandbox of the job is not there any more', {
        hint: 'it is kept for 7h: give --keep=TIME for longer jobs; `kiln ps` shows which are kept',
      });
    }
    await this.#kiln(['exec', ...options, id, '--', ...argv], this.#caller);
    return this.#caller.exitStatus ?? 0;
  }

  /** Ends the sandbox, if there is one: two that were opened at once are two. */
  async end(): Promise<void> {
    const ids = await this.#find();
    if (ids.length > 0) await this.#kiln(['kill', ...ids], this.#caller);
  }

  async #find(): Promise<readonly string[]> {
    const { env, user } = this.#caller;
    requireHost(env);
    const sandboxes = await listSandboxes(statePaths(env), { owner: user });
    const own = sandboxes.filter(({ record: { command = [], owner } }) => {
      const [mark, token] = command.slice(-2);
      // Anybody sees the token among the words of a process; root sees everybody's sandboxes.
      return mark === MARK && token === this.#token && owner === user?.uid;
    });
    return own.map(({ id }) => id);
  }
}

const RUNNER = {
  allowImage: row(text('image'), 'open', {
    help: 'let jobs name this image instead of the one of -r; can be given several times',
    many: true,
  }),
};

export type RunnerOptions = ValuesOf<typeof RUNNER>;

/** A command of a runner's that opens sandboxes: behind its own options come those of `kiln run`. */
export function opensSandboxes(command: KilnCommand): KilnCommand {
  return command
    .usage('[options] [-- OPTION of kiln run…]')
    .argument('[option...]', 'options of `kiln run`: -r IMAGE, limits, network, binds and others')
    .rows(RUNNER);
}

/**
 * The options that choose a job's image. A job could name a path of the host, so only images that the runner lists
 * with --allow-image are accepted. @throws KilnError E_CI_JOB
 */
export function imageOption(
  wanted: string | null | undefined,
  { allowImage }: RunnerOptions,
): readonly string[] {
  if (!wanted) return [];
  if (allowImage.includes(wanted)) return ['-r', wanted];
  throw new KilnError(
    'E_CI_JOB',
    `the job names the image ${wanted}, which this runner does not list`,
    {
      hint:
        allowImage.length === 0
          ? 'leave `image:` out of the job, or start the runner’s kiln with --allow-image'
          : `it has ${allowImage.join(', ')}: --allow-image adds one`,
    },
  );
}
