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

/** The failure of a start, with what to do about it where the network was the reason. */
export function withNetworkHint(error: unknown): unknown {
  if (!(error instanceof LibvirtError)) return error;
  const hint = HINTS.find(([pattern]) => pattern.test(error.message))?.[1];
  return hint === undefined
    ? error
    : new KilnError('E_NETWORK', error.message, { hint, cause: error });
}
