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
      'Act as a GitHub runner’s container hooks: read a request from stdin, run the job’s steps in one sandbox.',
    )
    .examples('kiln ci github-hook -- -r debian-build --memory 4G --egress github.com')
    .action(async (options: string[], its: RunnerOptions) => {
      caller.exitStatus = await answer(await read(caller), { options, its, caller, kiln });
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
    throw new KilnError('E_CI_JOB', 'stdin is not a request of a GitHub runner', {
      cause: cause instanceof z.ZodError ? new Error(z.prettifyError(cause)) : cause,
      hint: 'name a script that calls it in ACTIONS_RUNNER_CONTAINER_HOOKS: docs/ci-runners.md',
    });
  }
}

/** What a hook works with: the options of root's command line, and kiln for its caller. */
interface Hook {
  readonly options: readonly string[];
  readonly its: RunnerOptions;
  readonly caller: Caller;
  readonly kiln: Kiln;
}

/** @returns the exit status; a step's is its command's @throws KilnError */
async function answer(request: Request, hook: Hook): Promise<number> {
  const { caller, kiln } = hook;
  switch (request.command) {
    case 'prepare_job':
      return await prepare(request.args, request.responseFile, hook);
    case 'run_script_step': {
      const { args } = request;
      const options = [
        '-w',
        args.workingDirectory,
        ...environment(args.environmentVariables, false),
      ];
      return await jobOf(request.state, hook).execute(options, commandOf(args));
    }
    case 'run_container_step': {
      const { args } = request;
      const options = [...hook.options, ...imageOf(args, hook), '-w', args.workingDirectory];
      const own = ['--entrypoint', '', '--', ...commandOf(args)];
      await kiln(['run', ...options, ...surroundings(args), ...own], caller);
      return caller.exitStatus ?? 0;
    }
    case 'cleanup_job':
      // Without a prepared job there is nothing to clean up.
      if (request.state?.job) await jobOf(request.state, hook).end();
      return 0;
  }
}

async function prepare(
  { container: wanted, services }: Extract<Request, { command: 'prepare_job' }>['args'],
  responseFile: string,
  hook: Hook,
): Promise<number> {
  if (services?.length) throw refusedError('services', 'kiln runs no service containers for a job');
  if (!wanted?.image) {
    throw new KilnError('E_CI_JOB', 'the job names no container: it would run on the host', {
      hint: 'write `container: IMAGE` into the job',
    });
  }
  const { caller, kiln } = hook;
  const job = randomUUID();
  const sandbox = new JobSandbox(job, caller, kiln);
  const options = [...hook.options, ...imageOf(wanted, hook), ...surroundings(wanted)];
  const { isAlpine } = await sandbox.open(options);
  try {
    const context = { container: { id: job }, services: [] };
    const told = { state: { job }, context, isAlpine };
    await caller.paths.write(responseFile, 'anew', JSON.stringify(told));
  } catch (error) {
    await sandbox.end();
    throw error;
  }
  return 0;
}

function jobOf(its: z.output<typeof state>, { caller, kiln }: Hook): JobSandbox {
  if (its?.job) return new JobSandbox(its.job, caller, kiln);
  throw new KilnError('E_CI_JOB', 'the request names no job that prepare_job has prepared');
}

function imageOf({ image, dockerfile }: Container, { its }: Hook): readonly string[] {
  if (dockerfile)
    throw refusedError(`the Dockerfile ${dockerfile}`, 'kiln builds no Docker images');
  return imageOption(image, its);
}

/** @throws KilnError E_CI_JOB for what a workflow's author must not choose */
function surroundings(its: Container): string[] {
  const { createOptions, userMountVolumes, systemMountVolumes, portMappings } = its;
  if (createOptions)
    throw refusedError(`options: ${createOptions}`, 'limits are the runner’s to set');
  const [volume] = userMountVolumes ?? [];
  if (volume !== undefined) {
    throw refusedError(
      `the volume ${volume.sourceVolumePath}`,
      'a workflow binds no files of the host',
    );
  }
  if (Object.keys(portMappings ?? {}).length > 0) throw refusedError('ports', 'a sandbox has none');
  const mounts = (systemMountVolumes ?? []).filter((it) => it.targetVolumePath !== DOCKER);
  const hasHome = mounts.some(({ targetVolumePath }) => targetVolumePath === HOME);
  return [
    ...mounts.flatMap(({ sourceVolumePath, targetVolumePath, readOnly }) => [
      '--bind',
      // A job could have left a link in its place, for the next one, which would bind what it leads to.
      `${sourceVolumePath}:${targetVolumePath}:${readOnly ? 'ro' : 'rw'},nolinks`,
    ]),
    ...environment(its.environmentVariables, hasHome),
  ];
}

function environment(variables: Step['environmentVariables'], hasHome: boolean): string[] {
  const given = Object.entries(variables ?? {});
  const home = hasHome && !given.some(([name]) => name === 'HOME') ? [['HOME', HOME]] : [];
  return [...home, ...given].flatMap(([name, value]) => ['-e', `${name}=${value ?? ''}`]);
}

/** PATH is the sandbox's, so its shell puts the new folders before it. */
function commandOf({ entryPoint, entryPointArgs, prependPath }: Step): string[] {
  if (!entryPoint)
    throw refusedError('a step without an entry point', 'the image’s own is not run for it');
  const command = [entryPoint, ...(entryPointArgs ?? [])];
  if (!prependPath?.length) return command;
  const folders = typeof prependPath === 'string' ? prependPath : prependPath.join(':');
  return ['/bin/sh', '-c', 'PATH=$0:$PATH; exec "$@"', folders, ...command];
}

function refusedError(what: string, why: string): KilnError {
  return new KilnError('E_CI_JOB', `${what}: ${why}`, {
    hint: 'docs/ci-runners.md says what a job can have',
  });
}
