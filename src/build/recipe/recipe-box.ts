/** The box of a recipe: its commands, who runs them, and what they wrote last. */
import { closeSync } from 'node:fs';
import { posix } from 'node:path';
import { copyIn } from '../../artifacts/copy-in.ts';
import type { ArtifactWarning } from '../../artifacts/warning.ts';
import type { EgressEntry } from '../../egress/log.ts';
import { type Egress, openEgress } from '../../egress/open.ts';
import { KilnError } from '../../errors.ts';
import type { ImageManifest } from '../../image/store/manifest.ts';
import type { ProcessCgroups } from '../../kernel/cgroup-files.ts';
import type { CgroupUsage } from '../../kernel/cgroup-usage.ts';
import type { RunRequest } from '../../run/request.ts';
import type { CommandFacts } from '../../sandbox/command-facts.ts';
import { commandUser } from '../../sandbox/door/user.ts';
import type { BoxFacts } from '../../sandbox/facts.ts';
import type { Engine } from '../../sandbox/open.ts';
import { commandPolicy, userCapabilities } from '../../sandbox/policy.ts';
import type { SandboxProcess } from '../../sandbox/process.ts';
import type { Sandbox } from '../../sandbox/sandbox.ts';
import { chosenProfile } from '../../sandbox/seccomp/profile.ts';
import type { CommandPolicy } from '../../sandbox/specification.ts';
import { Tail } from '../tail.ts';
import type { BoxShell } from './script-protocol.ts';
import type { ReadySource } from './sources.ts';

/** Where sources lie in the box. */
const SOURCES = '/sources';

/** Prints the path of the shell that steps are for: `command -v` of some shells has no path. */
const FIND_SHELL = `IFS=:; for name in bash sh; do for directory in $PATH; do
  test -x "$directory/$name" && echo "$directory/$name" && exit
done; done`;

/** A command that has been started in the box. */
export interface BoxCommand {
  readonly process: SandboxProcess;
  /** The end of what it wrote, both streams together, oldest first. */
  readonly tail: Tail;
}

/** How a command is started. */
export interface BoxCommandOptions {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Absolute, or relative to the recipe's working directory. */
  readonly workdir: string | undefined;
  /** Instead of the recipe's. */
  readonly user: string | undefined;
  /** Whether it may use the network of the box, if that has one. */
  readonly network: boolean;
}

export class RecipeBox implements AsyncDisposable {
  /** The recipe's working directory. */
  readonly workdir: string;
  /** Measured when its first command was started. */
  measured: (BoxFacts & CommandFacts) | undefined;
  readonly #engine: Engine;
  readonly #request: RunRequest;
  readonly #manifest: ImageManifest;
  readonly #sandbox: Sandbox;
  readonly #cgroups: ProcessCgroups;
  readonly #egress: Egress | undefined;
  readonly #policies = new Map<string, CommandPolicy>();

  private constructor(
    engine: Engine,
    request: RunRequest,
    manifest: ImageManifest,
    sandbox: Sandbox,
    cgroups: ProcessCgroups,
    egress: Egress | undefined,
  ) {
    this.#engine = engine;
    this.#request = request;
    this.#manifest = manifest;
    this.#sandbox = sandbox;
    this.#cgroups = cgroups;
    this.#egress = egress;
    this.workdir = request.workdir ?? manifest.workdir;
  }

  /** Takes over an open sandbox; closing it stays the caller's. */
  static async of(
    engine: Engine,
    request: RunRequest,
    manifest: ImageManifest,
    sandbox: Sandbox,
  ): Promise<RecipeBox> {
    const cgroups = sandbox.cgroups;
    const { egress: hosts } = request;
    const egress = hosts === undefined ? undefined : await openEgress(sandbox, hosts);
    return new RecipeBox(engine, request, manifest, sandbox, cgroups, egress);
  }

  /** Puts the sources into the box; they are the recipe's user's. */
  async fill(
    sources: readonly ReadySource[],
    warn: (warning: ArtifactWarning) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const [, base] = this.#sandbox.facts.uidMap;
    const { uid, gid } = commandUser(this.#manifest, this.#request.user);
    const rootFd = this.#sandbox.openRoot();
    try {
      await copyIn({
        rootFd,
        items: sources.map(({ path, name }) => ({ source: path, target: `${SOURCES}/${name}` })),
        owner: { uid: base + uid, gid: base + gid },
        onWarning: warn,
        signal,
      });
    } finally {
      closeSync(rootFd);
    }
  }

  /** The image's bash, or its sh. Throws E_RECIPE_SHELL. */
  async findShell(): Promise<BoxShell> {
    const options = { env: {}, workdir: '/', user: undefined, network: false };
    const { process, tail } = await this.start({ ...options, argv: ['sh', '-c', FIND_SHELL] });
    process.stdin.end();
    process.stdout.resume();
    process.stderr.resume();
    await new Promise((resolve) => process.once('close', resolve));
    const path = tail.lines()[0] ?? '';
    if (!path.startsWith('/')) {
      throw new KilnError('E_RECIPE_SHELL', `image ${this.#manifest.name} has no shell`);
    }
    return { path, prefix: path.endsWith('bash') ? 'set -euo pipefail;' : 'set -eu;' };
  }

  /** Starts a command. Nobody reads its output yet. Throws what {@link Sandbox.spawn} throws. */
  async start({ argv, env, workdir, user, network }: BoxCommandOptions): Promise<BoxCommand> {
    const process = await this.#sandbox.spawn(argv, {
      policy: await this.#policy(user ?? this.#request.user, network),
      env: {
        ...this.#manifest.environment,
        ...(network ? this.#egress?.environment : {}),
        ...this.#request.env,
        ...env,
      },
      workdir: posix.resolve(this.workdir, workdir ?? '.'),
    });
    this.measured ??= { ...this.#sandbox.facts, ...process.facts };
    const tail = new Tail();
    const take = (chunk: Buffer) => tail.push(chunk);
    // Listening starts the flow; whoever relays the output listens in this turn as well.
    process.stdout.on('data', take);
    process.stderr.on('data', take);
    return { process, tail };
  }

  /** Of a command for which nothing else is said. */
  get environment(): Readonly<Record<string, string>> {
    return { ...this.#manifest.environment, ...this.#request.env };
  }

  /** Ends every process; the files stay. */
  async killAll(): Promise<void> {
    await this.#sandbox.killAll();
  }

  /** Lets go of the box; `kiln shell` comes back to it, as the recipe's user. */
  async keep(seconds: number): Promise<void> {
    const { user, capabilities } = await this.#policy(this.#request.user, false);
    const { environment: env, workdir } = this;
    const seccomp = this.#profile(false);
    await this.#sandbox.keep(seconds, { user, capabilities, seccomp, env, workdir });
  }

  /** Ends the way out to the hosts of a list, if there is one; gives what was asked for. */
  async closeEgress(): Promise<readonly EgressEntry[] | undefined> {
    return await this.#egress?.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#egress?.[Symbol.asyncDispose]();
  }

  /** Whether steps can be given a network. */
  #hasNetwork(): boolean {
    return this.#request.network !== 'private' || this.#egress !== undefined;
  }

  /** In a sandbox without a network there is nothing to keep from. */
  #profile(online: boolean): string {
    const profile = chosenProfile(this.#request.seccomp, this.#request.nested === true);
    return this.#hasNetwork() && !online ? `${profile}-offline` : profile;
  }

  /** As the kernel has them. */
  limits(): ReturnType<ProcessCgroups['limits']> {
    return this.#cgroups.limits(this.#sandbox.id);
  }

  usage(): CgroupUsage {
    return this.#cgroups.usage(this.#sandbox.id);
  }

  async #policy(wanted: string | undefined, online: boolean): Promise<CommandPolicy> {
    const key = JSON.stringify([wanted, online]);
    const known = this.#policies.get(key);
    if (known !== undefined) return known;
    const { paths } = this.#engine;
    const user = commandUser(this.#manifest, wanted);
    const { surroundings } = this.#sandbox;
    const made = await commandPolicy(paths, surroundings, {
      user: user.spec,
      capabilities: userCapabilities(user.uid, this.#request.capAdd, surroundings),
      seccomp: this.#profile(online),
    });
    this.#policies.set(key, made);
    return made;
  }
}
