import { Command } from 'commander';
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
      'List sandboxes: running, kept (for `kiln shell`) and parked (ready for the next command).',
    )
    .option('--json', 'print one JSON array instead of a table')
    .addHelpText('after', '\nExamples:\n  kiln ps\n  kiln ps --json | jq -r ".[].id"')
    .action(async (options: { json?: boolean }) => {
      requireHost();
      const paths = statePaths(caller.env);
      requireState(paths.root);
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
    });
}

function age(since: number): string {
  const seconds = Math.max(0, Math.round((Date.now() - since) / 1000));
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)}m`;
  return `${Math.round(seconds / 3600)}h`;
}
