/**
 * The custom executor of GitLab's runner: https://docs.gitlab.com/runner/executors/custom/. Variables that the job
 * controls begin with CUSTOM_ENV_; nothing here trusts them.
 */
import { randomUUID } from 'node:crypto';
import { resolve } from 'node:path';
import { CommanderError } from 'commander';
import { KilnError } from '../../errors.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { KILN_FAILED, printError } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { imageOption, JobSandbox, type Kiln, opensSandboxes, type RunnerOptions } from './job.ts';

/** How the stages know their job: `config` makes it up, and the runner hands it to the others (job_env). */
const JOB = 'KILN_CI_JOB';

const BUILDS = '/builds';
const CACHE = '/cache';

/** GitLab writes scripts for bash; some that do without run in `sh` as well. */
const SHELL = 'if command -v bash >/dev/null; then exec bash "$0"; fi; exec sh "$0"';

export function gitlabCommand(caller: Caller, kiln: Kiln): KilnCommand {
  const it = new KilnCommand('gitlab')
    .description('Act as a GitLab Runner’s custom executor: a job runs in one sandbox.')
    .enablePositionalOptions();
  it.command('config')
    .description('Tell the runner where builds lie in the sandbox, and make up the job’s token.')
    .examples('kiln ci gitlab config')
    .action(() => config(caller));
  opensSandboxes(it.command('prepare'))
    .description('Open the sandbox of the job, and keep it.')
    .examples(
      'kiln ci gitlab prepare --allow-image debian-build -- -r debian-build --memory 4G --egress gitlab.example.org',
    )
    .action(async (options: string[], its: RunnerOptions) => {
      await stage(caller, kiln, async (job) => {
        const image = caller.variable('CUSTOM_ENV_CI_JOB_IMAGE');
        await job.open([...options, ...folders(options), ...imageOption(image, its)]);
        return 0;
      });
    });
  it.command('run')
    .description('Run a script of the runner’s in the sandbox of the job.')
    .argument('<script>', 'the path of the script')
    .argument('<stage>', 'what it is for, such as get_sources or build_script')
    .examples('kiln ci gitlab run /tmp/custom-executor1/script build_script')
    .action(async (script: string) => {
      await stage(caller, kiln, (job) => runScript(job, resolve(caller.cwd(), script)));
    });
  it.command('cleanup')
    .description('End the sandbox of the job.')
    .examples('kiln ci gitlab cleanup')
    .action(async () => {
      await stage(caller, kiln, async (job) => {
        await job.end();
        return 0;
      });
    });
  return it;
}

function config(caller: Caller): void {
  printJson(caller.stdout, {
    builds_dir: BUILDS,
    cache_dir: CACHE,
    builds_dir_is_shared: false,
    driver: { name: 'kiln', version: KILN_VERSION },
    job_env: { [JOB]: randomUUID() },
  });
}

/** The job's own user can write to both, unless root has put something there. */
function folders(options: readonly string[]): readonly string[] {
  return [BUILDS, CACHE].flatMap((folder) => {
    const isGiven = options.some((word) => word.split(/[:=]/).includes(folder));
    return isGiven ? [] : ['--tmpfs', folder];
  });
}

async function runScript(job: JobSandbox, script: string): Promise<number> {
  const target = `/tmp/kiln-${randomUUID()}`;
  return await job.execute(['--copy-in', `${script}:${target}`], ['/bin/sh', '-c', SHELL, target]);
}

/** Exits as the runner asks: what the job's script failed with is the job's failure, everything else the system's. */
async function stage(
  caller: Caller,
  kiln: Kiln,
  act: (job: JobSandbox) => Promise<number>,
): Promise<void> {
  try {
    const status = await act(new JobSandbox(tokenOf(caller), caller, kiln));
    caller.exitStatus = status === 0 ? 0 : exitCode(caller, 'BUILD_FAILURE_EXIT_CODE', status);
    if (status !== 0) await tellStatus(caller, status);
  } catch (error) {
    // A usage error has been told.
    if (!(error instanceof CommanderError)) printError(error, caller.stderr);
    caller.exitStatus = exitCode(caller, 'SYSTEM_FAILURE_EXIT_CODE', KILN_FAILED);
  }
}

function exitCode(caller: Caller, name: string, usual: number): number {
  const code = Number(caller.variable(name));
  return Number.isInteger(code) && code > 0 && code < 256 ? code : usual;
}

/** Newer runners read the script's own status from a file, for `allow_failure: exit_codes`. */
async function tellStatus(caller: Caller, status: number): Promise<void> {
  const file = caller.variable('BUILD_EXIT_CODE_FILE');
  if (file) await caller.paths.write(file, 'anew', `${status}\n`);
}

function tokenOf(caller: Caller): string {
  const token = caller.variable(JOB);
  if (token !== undefined && /^[\w-]{36}$/.test(token)) return token;
  throw new KilnError('E_CI_JOB', `${JOB} does not say which job it is`, {
    hint: 'in config.toml: config_exec = "/usr/bin/kiln" and config_args = ["ci", "gitlab", "config"]',
  });
}
