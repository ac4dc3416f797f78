import { Command } from 'commander';
import { type ListedJob, listJobs } from '../detached/record.ts';
import { requireState, type StatePaths, statePaths } from '../host/state/paths.ts';
import { readManifest } from '../image/store/manifest.ts';
import { type ListedSandbox, listSandboxes } from '../sandbox/domain/list.ts';
import type { Caller } from './caller/caller.ts';
import { printJson } from './output/print.ts';
import {
  type Columns,
  formatOption,
  type ListOptions,
  printRows,
  printTable,
} from './output/table.ts';
import { requireHost } from './require-host.ts';

interface PsOptions extends ListOptions {
  readonly jobs?: boolean;
  readonly all?: boolean;
}

/** A sandbox and what its image is called, which is gone where the image is. */
interface NamedSandbox extends ListedSandbox {
  readonly imageName: string | undefined;
}

const COLUMNS: Columns<NamedSandbox> = [
  ['ID', ({ id }) => id],
  ['STATE', ({ state }) => state],
  ['AGE', ({ record }) => age(record.created)],
  ['IMAGE', ({ imageName, record }) => imageName ?? record.image?.slice(0, 12) ?? ''],
  ['DOMAIN', ({ record }) => record.domain],
  ['COMMAND', ({ record }) => (record.command ?? []).join(' ').slice(0, 60)],
];

/** `kiln ps`. */
export function command(caller: Caller): Command {
  return new Command('ps')
    .description(
      'List sandboxes: running, kept (for `kiln shell`) and, with -a, parked (ready for the next command); and detached jobs.',
    )
    .option('-a, --all', 'list parked sandboxes as well')
    .option('--jobs', 'list detached jobs only')
    .option('--json', 'print one JSON array instead of a table: of sandboxes, with --jobs of jobs')
    .addOption(formatOption())
    .addHelpText(
      'after',
      '\nExamples:\n  kiln ps\n  kiln ps --json | jq -r ".[].id"\n  kiln ps --format "{{.ID}} {{.State}}"\n  kiln ps --jobs',
    )
    .action(async (options: PsOptions) => {
      requireHost();
      const paths = statePaths(caller.env);
      requireState(paths.root);
      const jobs = await listJobs(paths, caller.user);
      if (options.jobs === true) {
        if (options.json === true) printJson(caller.stdout, jobs.map(jobJson));
        else printJobs(jobs, caller);
        return;
      }
      const listed = await listSandboxes(paths, { owner: caller.user });
      const sandboxes = listed
        .filter(({ state }) => options.all === true || state !== 'parked')
        .map((sandbox) => named(sandbox, paths));
      if (options.json === true) {
        printJson(caller.stdout, sandboxes.map(sandboxJson));
        return;
      }
      printRows(caller.stdout, COLUMNS, sandboxes, options);
      if (options.format !== undefined) return;
      if (jobs.length === 0) return;
      caller.stdout.say('\n');
      printJobs(jobs, caller);
    });
}

function named(sandbox: ListedSandbox, paths: StatePaths): NamedSandbox {
  const { image } = sandbox.record;
  return { ...sandbox, imageName: image && readManifest(paths, image)?.name };
}

/** Times are ISO 8601 here; `record` is the sandbox's file as it lies. */
function sandboxJson({ imageName, ...sandbox }: NamedSandbox) {
  const { image, created, keepUntil } = sandbox.record;
  return { ...sandbox, image, imageName, created: iso(created), keepUntil: iso(keepUntil) };
}

function iso(milliseconds: number | undefined): string | undefined {
  return milliseconds === undefined ? undefined : new Date(milliseconds).toISOString();
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
  return {
    ...{ id, name, state, owner, command, created: iso(created), resultDirectory },
    ...{ endedAt: iso(endedAt), exitStatus },
  };
}

function age(since: number): string {
  const seconds = Math.max(0, Math.round((Date.now() - since) / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)}m`;
  return `${Math.round(seconds / 3600)}h`;
}
