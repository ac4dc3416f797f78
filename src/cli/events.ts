import { setTimeout as sleep } from 'node:timers/promises';
import { eventText } from '../events/event.ts';
import { EventReader, type EventViewer } from '../events/read.ts';
import { roomIn } from '../host/sockets/back-pressure.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { flag } from '../options/kind.ts';
import { moment } from '../options/numbers.ts';
import { row, type ValuesOf } from '../options/row.ts';
import { findAccount } from '../users/account.ts';
import { type Caller, listenForInterruption } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';
import { jsonText } from './output/print.ts';
import { isJson, jsonFormat } from './output/table.ts';

const EVENTS = {
  follow: row(flag, 'open', { help: 'go on with what comes, until interrupted', short: 'f' }),
  since: row(moment, 'open', {
    help: 'leave out what is older than so long, or came before a date; with -f now by default',
  }),
  json: row(flag, 'open', { help: 'print one JSON object on each line' }),
  format: jsonFormat('as --json'),
};

/** Between two looks for what has come, ms. */
export const LOOK = 200;

export function command(caller: Caller): KilnCommand {
  return new KilnCommand('events')
    .description(
      'Print who ran what: starts, ends, refusals, and hosts that were reached or denied.',
    )
    .rows(EVENTS)
    .addHelpText(
      'after',
      `
Users see their own events, root everybody's. docs/events.md has all fields, and what to alert on.

Examples:
  kiln events --since 1h
  kiln events -f --json | jq 'select(.event == "refused")'
  kiln events --since 2026-12-01T08:00`,
    )
    .action(async (options: ValuesOf<typeof EVENTS>) => {
      const { follow = false, since = follow ? Date.now() : 0 } = options;
      await using engine = caller.openEngine();
      const { paths } = engine;
      using reader = new EventReader(paths, { viewer: viewerOf(paths, caller), since });
      using interruption = follow ? listenForInterruption(caller) : undefined;
      const { stdout } = caller;
      for (;;) {
        for (const event of reader.read()) {
          stdout.say(`${isJson(options) ? jsonText(event) : eventText(event)}\n`);
          if (stdout.stream.writableNeedDrain) await roomIn(stdout.stream);
        }
        if (interruption === undefined || interruption.signal.aborted) return;
        if (stdout.stream.destroyed) return;
        await sleep(LOOK, undefined, { signal: interruption.signal }).catch(() => undefined);
      }
    });
}

/** A user sees what the account has done that the number is now. */
export function viewerOf(
  paths: StatePaths,
  { user }: Pick<Caller, 'user'>,
): EventViewer | undefined {
  if (user === undefined) return undefined;
  return { uid: user.uid, user: findAccount(paths, user.uid).value?.name };
}
