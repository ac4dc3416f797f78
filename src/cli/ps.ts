import { Command } from 'commander';
import { type ListedJob, listJobs } from '../detached/record.ts';
import { requireState, statePaths } from '../host/state/paths.ts';
import { listSandboxes } from '../sandbox/domain/list.ts';
import type { Caller } from './caller/caller.ts';
import { printJson } from './output/print.ts';
import { printTable } from './output/table.ts';
import { requireHost } from './require-host.ts';

/** `kiln ps`. */
export function command(caller: Caller): Command {
  return new Command('ps')
    .description(
      'List sandboxes: running, kept (for `kiln shell`) and parked (ready for the next command); and detached jobs.',
    )
    .option('--jobs', 'list detached jobs only')
    .option('--json', 'print one JSON array instead of a table: of sandboxes, with --jobs of jobs')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln ps\n  kiln ps --json | jq -r ".[].id"\n  kiln ps --jobs',
    )
    .action(async (options: { json?: boolean; jobs?: boolean }) => {
      requireHost();
      const paths = statePaths(caller.env);
      requireState(paths.root);
      const jobs = await listJobs(paths, caller.user);
      if (options.jobs === true) {
        if (options.json === true) printJson(caller.stdout, jobs.map(jobJson));
        else printJobs(jobs, caller);
        return;
      }
      const sandboxes = await listSandboxes(paths, { owner: caller.user });
      if (options.json === true) {
        printJson(caller.stdout, sandboxes);
        return;
      }
      printTable(
        caller.stdout,
        ['ID', 'STATE', 'AGE', 'IMAGE', 'DOMAIN', 'COMMAND'],
        sandboxes.map(({ id, state, record }) => [
          id,
          state,
          age(record.created),
          record.image?.slice(0, 12) ?? '',
          record.domain,
          (record.command ?? []).join(' ').slice(0, 60),
        ]),
      );
      if (jobs.length === 0) return;
      caller.stdout.say('\n');
      printJobs(jobs, caller);
    });
}

function printJobs(jobs: readonly ListedJob[], caller: Caller): void {
  printTable(
    caller.stdout,
    ['JOB', 'NAME', 'STATE', 'AGE', 'COMMAND'],
    jobs.map(({ state, record }) => [
      record.id,
      record.name ?? '',
      record.ended === undefined ? state : `ended ${record.ended.status}`,
      age(record.created),
      record.command.join(' ').slice(0, 60),
    ]),
  );
}

function jobJson({ state, record }: ListedJob) {
  const { id, name, owner, command, created, resultDirectory, ended } = record;
  const [endedAt, exitStatus] = [ended?.at, ended?.status];
  return { id, name, state, owner, command, created, resultDirectory, endedAt, exitStatus };
}

function age(since: number): string {
  const seconds = Math.max(0, Math.round((Date.now() - since) / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)}m`;
  return `${Math.round(seconds / 3600)}h`;
}
