import { Command } from 'commander';
import { KilnError } from '../errors.ts';
import type { Caller, Parking } from './caller/caller.ts';
import { parseCount } from './options/values.ts';
import { watchProgress } from './output/changing-line.ts';

/** `kiln park`. */
export function command(caller: Caller): Command {
  return new Command('park')
    .description(
      'Start sandboxes ahead of time, so that the next commands need not wait for libvirt. A parked sandbox fits every image, bind and limit. It is used once and then replaced in the background. Parked sandboxes end after 30 minutes without use, and with the daemon.',
    )
    .option(
      '-n, --number <count>',
      'keep this many sandboxes parked; without -n, as many as before',
      parseCount,
    )
    .option('--none', 'destroy the parked sandboxes and start no more')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln park -n 4\n  kiln ps -a\n  kiln park --none\n\nEach is reckoned at 32 MB, and 512 MB must stay free: kiln refuses more. KILN_PARKED sets how many the daemon parks by itself.',
    )
    .action(async (options: { number?: number; none?: boolean }) => {
      // Fails here for callers who cannot have sandboxes at all.
      await using _engine = caller.openEngine();
      const parking = requireParking(caller);
      if (options.none === true) {
        const before = parking.count;
        using _ = watchProgress(
          caller.stderr,
          () => `${before - parking.count} of ${before} destroyed`,
        );
        await parking.none();
        return;
      }
      const wanted = options.number;
      if (wanted !== undefined) requireRoom(parking, wanted);
      {
        using _ = watchProgress(caller.stderr, () => parked(parking));
        await (wanted === undefined ? parking.fill() : parking.keep(wanted));
      }
      caller.stdout.say(`${parked(parking)}\n`);
    });
}

/** @throws KilnError E_NO_DAEMON */
function requireParking({ parking }: Caller): Parking {
  if (parking !== undefined) return parking;
  throw new KilnError(
    'E_NO_DAEMON',
    'only the daemon can park sandboxes, and none serves this call',
    {
      hint: 'call kiln as root, without KILN_URI and KILN_FROM_SOURCE, where the daemon runs',
    },
  );
}

function parked({ count, target }: Parking): string {
  return `${count} of ${target} parked`;
}

/** Refuses more sandboxes than memory has room for. */
function requireRoom({ count, room }: Parking, wanted: number): void {
  const most = count + room;
  if (wanted <= most) return;
  throw new KilnError('E_PARK_ROOM', `there is no memory for ${wanted} parked sandboxes`, {
    hint:
      most === 0
        ? 'free some: each is reckoned at 32 MB, and 512 MB are to stay free'
        : `at most ${most} fit: kiln park -n ${most}`,
    details: { most },
  });
}
