/** What an attempt is: see attempts.ts. */

/**
 * The layers, as docs/security.md has them. Labels are not among them: few hosts have SELinux or AppArmor,
 * and scripts/hosts tries what is between a sandbox and its label there (check-labels.ts).
 */
export const LAYERS = [
  ...(['namespaces', 'files', 'ids', 'capabilities', 'seccomp', 'landlock', 'limits'] as const),
  ...(['network', 'host side'] as const),
];

type Layer = (typeof LAYERS)[number];

/** Ways to be without something; setup.ts makes them. */
export type Without =
  | 'seccomp' // no filter
  | 'rights' // no filter, no Landlock, every capability: root of its user namespace in full
  | 'walls' // no Landlock, no filter
  | 'proc' // a sandbox whose /proc is as the kernel makes it, otherwise as `seccomp`
  | 'bare' // `proc` and `rights` at once, and namespaces can be made
  | 'network' // the host's network, otherwise as usual
  | 'user' // container root instead of the unprivileged user, otherwise as usual
  | 'limits' // no limits
  | 'new-privileges' // an init that skips no_new_privs and nosuid
  | 'cgroup-namespace' // an init that skips it
  | 'descriptors' // an init that leaves one open
  | 'terminals' // an init that bounds none
  | 'old-root' // an init that keeps the root it came from
  | 'sandbox'; // none at all: root of the host

export interface Attempt {
  readonly verb: string;
  readonly tries: string;
  readonly layer: Layer;
  /** Who tries: both, unless it makes no sense for one. */
  readonly as?: 'user' | 'root';
  /** Without what it must get through: else it could not have succeeded anyway. */
  readonly without?: Without;
  /**
   * Errnos that count as through: the kernel says them behind what is taken away, and the value says
   * why. Never the errno that the attempt is stopped with.
   */
  readonly further?: Readonly<Record<string, string>>;
  /** Why nothing of kiln's can be taken away that would let it through. */
  readonly cannotBeWithout?: string;
  /** What is attacked: a host that has none of these files cannot show that it gets through. */
  readonly attacks?: readonly string[];
}
