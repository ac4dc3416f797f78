/** The sandbox of a recipe: its commands, who runs them, and what they wrote last. */
import { posix } from 'node:path';
import type { ArtifactWarning } from '../../artifacts/warning.ts';
import { KilnError } from '../../errors.ts';
import type { ImageManifest } from '../../image/store/manifest.ts';
import type { SandboxProcess } from '../../sandbox/command/process.ts';
import type { Executed, Measured } from '../../sandbox/door/io.ts';
import { Output } from '../../sandbox/door/output.ts';
import type { CommandPlan, Plan } from '../../sandbox/door/plan.ts';
import type { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { TimeLimits } from '../../sandbox/door/supervise.ts';
import { commandUser } from '../../sandbox/door/user.ts';
import { type PolicyRequest, userCapabilities } from '../../sandbox/policy/policy.ts';
import { surroundingsOf } from '../../sandbox/policy/surroundings.ts';
import type { SandboxShell } from './script-protocol.ts';
import type { ReadySource } from './sources.ts';

/** Where sources lie in the sandbox. */
const SOURCES = '/sources';

/** Prints the path of the shell that steps are for: `command -v` of some shells has no path. */
const FIND_SHELL = `IFS=:; for name in bash sh; do for directory in $PATH; do
  test -x "$directory/$name" && echo "$directory/$name" && exit
done; done`;

/** Bytes that are kept of what one of a step's commands wrote. */
const KEPT = 1 << 20;

export interface RecipeCommand {
  readonly process: SandboxProcess;
  /** The end of what it wrote, both streams together, oldest first. */
  readonly output: Output;
}

export interface RecipeCommandOptions {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Absolute, or relative to the recipe's working directory. */
  readonly workdir: string | undefined;
  /** Instead of the recipe's. */
  readonly user: string | undefined;
  /** Whether it may use the network of the sandbox, if that has one. */
  readonly network: boolean;
}

export class RecipeSandbox {
  /** Measured when its first command was started. */
  measured: Measured | undefined;
  readonly #plan: Plan;
  readonly #manifest: ImageManifest;
  readonly sandbox: PlannedSandbox;

  /** @param sandbox as planned; closing it stays the caller's */
  constructor(plan: Plan, manifest: ImageManifest, sandbox: PlannedSandbox) {
    this.#plan = plan;
    this.#manifest = manifest;
    this.sandbox = sandbox;
  }

  /** The recipe's working directory. */
  get workdir(): string {
    return this.#plan.command.workdir;
  }

  /** Of a command for which nothing else is said. */
  get environment(): Readonly<Record<string, string>> {
    return { ...this.#plan.environment, ...this.#plan.command.env };
  }

  /** Puts the sources into the sandbox; they are the recipe's user's. */
  async fill(
    sources: readonly ReadySource[],
    warn: (warning: ArtifactWarning) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const items = sources.map(({ path, name }) => ({ source: path, target: `${SOURCES}/${name}` }));
    await this.sandbox.copyIn(items, warn, signal);
  }

  /** The image's bash, or its sh. Throws E_RECIPE_SHELL. */
  async findShell(): Promise<SandboxShell> {
    const options = { env: {}, workdir: '/', user: undefined, network: false };
    const { output } = await this.execute({ ...options, argv: ['sh', '-c', FIND_SHELL] }, {});
    const path = output.lines()[0] ?? '';
    if (!path.startsWith('/')) {
      throw new KilnError('E_RECIPE_SHELL', `image ${this.#manifest.name} has no shell`, {
        hint: 'add bash to the packages of the image',
      });
    }
    return { path, prefix: path.endsWith('bash') ? 'set -euo pipefail;' : 'set -eu;' };
  }

  /** Runs a command to its end. Throws what {@link PlannedSandbox.execute} throws. */
  async execute(
    command: RecipeCommandOptions,
    time: TimeLimits,
    onOutput?: (chunk: Buffer) => void,
  ): Promise<Executed> {
    const end = await this.sandbox.execute(
      { ...this.#command(command), time, leftovers: 'ended' },
      { onOutput },
    );
    this.measured ??= end.measured;
    return end;
  }

  /** Starts a command. Nobody reads its output yet. Throws what {@link PlannedSandbox.start} throws. */
  async start(command: RecipeCommandOptions): Promise<RecipeCommand> {
    const { process, measured } = await this.sandbox.start(this.#command(command));
    this.measured ??= measured;
    const output = new Output(KEPT);
    const take = (chunk: Buffer) => output.push(chunk);
    // Listening starts the flow; whoever relays the output listens in this turn as well.
    process.stdout.on('data', take);
    process.stderr.on('data', take);
    return { process, output };
  }

  /** Lets go of the sandbox; `kiln shell` comes back to it, as the recipe's user. */
  async keep(seconds: number): Promise<void> {
    const { command } = this.#plan;
    await this.sandbox.keep(seconds, { ...command, policy: this.#policy(undefined, false) });
  }

  #command({ argv, env, workdir, user, network }: RecipeCommandOptions): CommandPlan {
    return {
      ...this.#plan.command,
      argv,
      env: { ...this.#plan.command.env, ...env },
      workdir: posix.resolve(this.workdir, workdir ?? '.'),
      policy: this.#policy(user, network),
      ...{ leftovers: 'left', online: network },
    };
  }

  /** In a sandbox without a network there is nothing to keep a command from. */
  #policy(wanted: string | undefined, online: boolean): PolicyRequest {
    const { command, egress, sandbox } = this.#plan;
    const { policy } = command;
    const hasNetwork = sandbox.network !== 'private' || egress !== undefined;
    const seccomp = hasNetwork && !online ? `${policy.seccomp}-offline` : policy.seccomp;
    if (wanted === undefined) return { ...policy, seccomp };
    const user = commandUser(this.#manifest, wanted);
    const capabilities = userCapabilities(user.uid, [], surroundingsOf(sandbox));
    return { user: user.spec, capabilities, seccomp };
  }
}
