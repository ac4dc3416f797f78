/**
 * Container hooks of GitHub's runner: its docs/adrs/1891-container-hooks.md and the examples of
 * actions/runner-container-hooks. A workflow's author chooses images, volumes and options: what kiln does not do for a
 * stranger is refused by its name.
 */
import { randomUUID } from 'node:crypto';
import { text } from 'node:stream/consumers';
import { z } from 'zod';
import { KilnError } from '../../errors.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { answerInFile } from '../output/ci-output.ts';
import { imageOption, JobSandbox, type Kiln, opensSandboxes, type RunnerOptions } from './job.ts';

const mount = z.object({
  sourceVolumePath: z.string(),
  targetVolumePath: z.string(),
  readOnly: z.boolean().nullish(),
});
const variables = z.record(z.string(), z.string().nullable()).nullish();
const container = z.object({
  image: z.string().nullish(),
  dockerfile: z.string().nullish(),
  createOptions: z.string().nullish(),
  environmentVariables: variables,
  userMountVolumes: z.array(mount).nullish(),
  systemMountVolumes: z.array(mount).nullish(),
  portMappings: z.union([z.array(z.string()), z.record(z.string(), z.string())]).nullish(),
});
const step = z.object({
  entryPoint: z.string().nullish(),
  entryPointArgs: z.array(z.string()).nullish(),
  environmentVariables: variables,
  /** A list in the documentation; the runner sends the text that PATH begins with. */
  prependPath: z.union([z.string(), z.array(z.string())]).nullish(),
  workingDirectory: z.string(),
});
const state = z.object({ job: z.string().nullish() }).nullish();
const requests = z.discriminatedUnion('command', [
  z.object({
    command: z.literal('prepare_job'),
    responseFile: z.string(),
    args: z.object({
      container: container.nullish(),
      services: z.array(z.object({ image: z.string().nullish() })).nullish(),
    }),
  }),
  z.object({ command: z.literal('run_script_step'), state, args: step }),
  z.object({ command: z.literal('run_container_step'), state, args: container.extend(step.shape) }),
  z.object({ command: z.literal('cleanup_job'), state }),
]);

type Container = z.output<typeof container>;
type Step = z.output<typeof step>;
type Request = z.output<typeof requests>;

/** What a request may have: scripts are files, so it is mostly variables. Bytes. */
const REQUEST_MAX = 4 << 20;

/** Of the engine that it takes the place of; no sandbox gets it. */
const DOCKER = '/var/run/docker.sock';
const HOME = '/github/home';

export function githubCommand(caller: Caller, kiln: Kiln): KilnCommand {
  return opensSandboxes(new KilnCommand('github-hook'))
    .description(
      'Be the container hooks of a GitHub runner: read a request from stdin, run the job’s steps in one sandbox.',
    )
    .examples('kiln ci github-hook -- -r debian-build --memory 4G --egress github.com')
    .action(async (options: string[], its: RunnerOptions) => {
      caller.exitStatus = await new Hook(options, its, caller, kiln).answer(await read(caller));
    });
}

/** @throws KilnError E_CI_JOB */
async function read(caller: Caller): Promise<Request> {
  using input = caller.readInput({ raw: false });
  let length = 0;
  input.stream.on('data', (chunk: Buffer) => {
    length += chunk.length;
    if (length > REQUEST_MAX) input.stream.destroy(new Error('it is too long'));
  });
  try {
    return requests.parse(JSON.parse(await text(input.stream)));
  } catch (cause) {
    throw new KilnError('E_CI_JOB', 'what is on stdin is no request of a GitHub runner', {
      cause: cause instanceof z.ZodError ? new Error(z.prettifyError(cause)) : cause,
      hint: 'name a script that calls it in ACTIONS_RUNNER_CONTAINER_HOOKS: docs/ci-runners.md',
    });
  }
}

class Hook {
  readonly #options: readonly string[];
  readonly #its: RunnerOptions;
  readonly #caller: Caller;
  readonly #kiln: Kiln;

  constructor(options: readonly string[], its: RunnerOptions, caller: Caller, kiln: Kiln) {
    this.#options = options;
    this.#its = its;
    this.#caller = caller;
    this.#kiln = kiln;
  }

  /** @returns the exit status; a step's is its command's @throws KilnError */
  async answer(request: Request): Promise<number> {
    switch (request.command) {
      case 'prepare_job':
        return await this.#prepare(request.args, request.responseFile);
      case 'run_script_step': {
        const { args } = request;
        const options = ['-w', args.workingDirectory, ...environment(args, false)];
        return await this.#job(request.state).execute(options, commandOf(args));
      }
      case 'run_container_step': {
        const { args } = request;
        const image = this.#imageOf(args);
        const options = [...this.#options, ...image, '-w', args.workingDirectory];
        await this.#kiln(
          ['run', ...options, ...surroundings(args), '--', ...commandOf(args)],
          this.#caller,
        );
        return this.#caller.exitStatus ?? 0;
      }
      case 'cleanup_job':
        // Without a prepared job there is nothing to clean up.
        if (request.state?.job) await this.#job(request.state).end();
        return 0;
    }
  }

  async #prepare(
    { container: wanted, services }: Extract<Request, { command: 'prepare_job' }>['args'],
    responseFile: string,
  ): Promise<number> {
    if (services?.length) throw refused('services', 'kiln runs no service containers for a job');
    if (!wanted?.image) {
      throw new KilnError('E_CI_JOB', 'the job names no container: it would run on the host', {
        hint: 'write `container: IMAGE` into the job',
      });
    }
    const options = [...this.#options, ...this.#imageOf(wanted), ...surroundings(wanted)];
    const job = randomUUID();
    const sandbox = new JobSandbox(job, this.#caller, this.#kiln);
    const { isAlpine } = await sandbox.open(options);
    try {
      const response = {
        state: { job },
        context: { container: { id: job }, services: [] },
        isAlpine,
      };
      await answerInFile(responseFile, JSON.stringify(response), this.#caller);
    } catch (error) {
      await sandbox.end();
      throw error;
    }
    return 0;
  }

  #job(its: z.output<typeof state>): JobSandbox {
    if (its?.job) return new JobSandbox(its.job, this.#caller, this.#kiln);
    throw new KilnError('E_CI_JOB', 'the request names no job that prepare_job has prepared');
  }

  #imageOf({ image, dockerfile }: Container): readonly string[] {
    if (dockerfile) throw refused(`the Dockerfile ${dockerfile}`, 'kiln builds no Docker images');
    return imageOption(image, this.#its);
  }
}

/** @throws KilnError E_CI_JOB for what a workflow's author must not choose */
function surroundings(its: Container): string[] {
  const { createOptions, userMountVolumes, systemMountVolumes, portMappings } = its;
  if (createOptions) throw refused(`options: ${createOptions}`, 'limits are the runner’s to set');
  const [volume] = userMountVolumes ?? [];
  if (volume !== undefined) {
    throw refused(`the volume ${volume.sourceVolumePath}`, 'a workflow binds no files of the host');
  }
  if (Object.keys(portMappings ?? {}).length > 0) throw refused('ports', 'a sandbox has none');
  const mounts = (systemMountVolumes ?? []).filter((it) => it.targetVolumePath !== DOCKER);
  const hasHome = mounts.some(({ targetVolumePath }) => targetVolumePath === HOME);
  return [
    ...mounts.flatMap(({ sourceVolumePath, targetVolumePath, readOnly }) => [
      '--bind',
      // A job could have left a link in its place, for the next one, which would bind what it leads to.
      `${sourceVolumePath}:${targetVolumePath}:${readOnly ? 'ro' : 'rw'},nolinks`,
    ]),
    ...environment(its, hasHome),
  ];
}

function environment(
  { environmentVariables }: Pick<Step, 'environmentVariables'>,
  hasHome: boolean,
): string[] {
  const given = Object.entries(environmentVariables ?? {});
  const home = hasHome && !given.some(([name]) => name === 'HOME') ? [['HOME', HOME]] : [];
  return [...home, ...given].flatMap(([name, value]) => ['-e', `${name}=${value ?? ''}`]);
}

/** PATH is the sandbox's, so its shell puts the new folders before it. */
function commandOf({ entryPoint, entryPointArgs, prependPath }: Step): string[] {
  if (!entryPoint) throw refused('a step without an entry point', 'an image of kiln’s has none');
  const command = [entryPoint, ...(entryPointArgs ?? [])];
  if (!prependPath?.length) return command;
  const folders = typeof prependPath === 'string' ? prependPath : prependPath.join(':');
  return ['/bin/sh', '-c', 'PATH=$0:$PATH; exec "$@"', folders, ...command];
}

function refused(what: string, why: string): KilnError {
  return new KilnError('E_CI_JOB', `${what}: ${why}`, {
    hint: 'docs/ci-runners.md says what a job can have',
  });
}
