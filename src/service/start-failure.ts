import { KilnError } from '../errors.ts';
import { LibvirtError } from '../libvirt/errors.ts';

/** What libvirt says of a network that cannot be had, and what mends it. */
const HINTS: readonly (readonly [RegExp, string])[] = [
  [
    /no connection driver available for nwfilter/,
    'the libvirtd has no nwfilter: install libvirt-daemon-driver-nwfilter, and start the service again when no box runs any more',
  ],
  [/referenced filter '.*' is missing/, '`virsh nwfilter-list` shows the rule sets'],
  [/variable '?\w+'?.*(?:missing|not)|unresolvable variable/i, 'give it as filter.VARIABLE=VALUE'],
  [/[Nn]etwork not found|network .* is not active/, '`virsh net-list --all` shows the networks'],
];

/** Errors that have the name of a layer with them. */
const OF_LAYERS: ReadonlySet<string> = new Set(['E_LAYER_MISSING', 'E_LIMIT']);

/** Which setting a layer of a box comes from. */
const SETTINGS = new Map([
  ['memory-limit', 'memory'],
  ['cpu-limit', 'cpus'],
  ['pids-limit', 'pids'],
  ['io-limit', 'io-read, io-write'],
]);

/** The failure of a service's start, with what to do about it where a service has its own way. */
export function withServiceHint(service: string, error: unknown): unknown {
  if (error instanceof LibvirtError) {
    const hint = HINTS.find(([pattern]) => pattern.test(error.message))?.[1];
    return hint === undefined
      ? error
      : new KilnError('E_NETWORK', error.message, { hint: error.hint ?? hint, cause: error });
  }
  if (!(error instanceof KilnError) || !OF_LAYERS.has(error.code)) return error;
  const { code, message, cause, details = {} } = error;
  const setting = SETTINGS.get(String(details.layer));
  if (setting === undefined) return error;
  const more = code === 'E_LIMIT' ? error.hint : '`kiln doctor` tells what this host lacks';
  const hint = `\`kiln service set ${service}\` changes ${setting}; ${more}`;
  return new KilnError(code, message, { hint, cause, details });
}
