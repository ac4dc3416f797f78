import { posix } from 'node:path';
import { KilnError } from '../../errors.ts';
import type { ImageManifest } from '../../image/store/manifest.ts';
import { Output } from '../../sandbox/command/output.ts';
import {
  type CommandPlan,
  commandUser,
  type KeptCommand,
  type Plan,
} from '../../sandbox/door/plan.ts';
import type { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { Executed, Measured, TimeLimits } from '../../sandbox/door/supervise.ts';
import { type PolicyRequest, userCapabilities } from '../../sandbox/policy/policy.ts';
import { surroundingsOf } from '../../sandbox/policy/specification.ts';
import type { SandboxShell } from './script-protocol.ts';

export const SOURCES = '/sources';

/** Prints the path of the shell that steps are for: `command -v` of some shells has no path. */
const FIND_SHELL = `IFS=:; for name in bash sh; do for directory in $PATH; do
  test -x "$directory/$name" && echo "$directory/$name" && exit
done; done`;

const KEPT = 1 << 20;

interface RecipeCommandOptions {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly workdir: string | undefined;
  readonly user: string | undefined;
  readonly network: boolean;
}

export class RecipeSandbox {
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

  get workdir(): string {
    return this.#plan.command.workdir;
  }

  get environment(): Readonly<Record<string, string>> {
    return { ...this.#plan.environment, ...this.#plan.command.env };
  }

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

  async start(command: RecipeCommandOptions) {
    const { process, measured } = await this.sandbox.start(this.#command(command));
    this.measured ??= measured;
    const output = new Output(KEPT);
    const take = (chunk: Buffer) => output.push(chunk);
    // Listening starts the flow; a relay of the output listens in this turn as well.
    process.stdout.on('data', take);
    process.stderr.on('data', take);
    return { process, output };
  }

  /** For commands in a sandbox that is kept. */
  get furtherCommand(): KeptCommand {
    return { ...this.#plan.command, policy: this.#policy(undefined, false) };
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
