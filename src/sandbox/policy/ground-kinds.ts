/**
 * What each kind of thing that a sandbox stands on can do. Jobs, the door and the policy ask this table, and know
 * neither kind; `test/architecture/grounds.test.ts` holds that.
 */
import { KilnError } from '../../errors.ts';

/** What a sandbox stands on: the host's kernel, or one of its own. */
export const ISOLATION = ['container', 'vm'] as const;
export type IsolationKind = (typeof ISOLATION)[number];

/** What holds for a sandbox that nobody has asked to be a machine. */
export const DEFAULT_ISOLATION: IsolationKind = 'container';

/** Why a kind lacks something, in an error, and what to do instead. */
interface Lack {
  readonly what: (asked: string) => string;
  readonly hint: string;
}

const LACKS = {
  /** `--on-disk`. */
  upperOnDisk: {
    what: () =>
      'a machine has no --on-disk: the host’s disk comes to it by virtiofs, on which no overlay can write',
    hint: 'leave out --on-disk, or --isolation vm; --disk bounds what is written in memory',
  },
  /** `--label`. */
  chosenLabel: {
    what: () => 'a machine has no --label: no process of this host is in it',
    hint: 'leave out --label, or --isolation vm',
  },
  /** Images for a processor that this host emulates by a program. */
  otherProcessor: {
    what: (arch) => `a machine has no image for ${arch}: its processor is this host’s`,
    hint: 'leave out --isolation vm; docs/machines.md says what machines can do',
  },
} satisfies Readonly<Record<string, Lack>>;

type Lacking = keyof typeof LACKS;

/** What one kind can and another does in another way, so that nobody is refused. */
type Other =
  /** Its own kernel mounts file systems in files; else a program unpacks them. */
  | 'mountsImages'
  /** The root of kiln-mock stays after a build. */
  | 'rootThatStays'
  /** The host sees which paths it refuses a command. */
  | 'refusedPaths';

type Ability = Lacking | Other;

const CAN: Readonly<Record<IsolationKind, ReadonlySet<Ability>>> = {
  container: new Set<Ability>([
    ...(['upperOnDisk', 'chosenLabel', 'otherProcessor'] as const),
    ...(['rootThatStays', 'refusedPaths'] as const),
  ]),
  vm: new Set<Ability>(['mountsImages']),
};

/** Whether a sandbox of this kind can do something. */
export function can(kind: IsolationKind, ability: Ability): boolean {
  return CAN[kind].has(ability);
}

/**
 * @param asked what was asked for, for the error
 * @throws KilnError E_MACHINE where a sandbox of this kind cannot do it
 */
export function requireAbility(kind: IsolationKind, ability: Lacking, asked = ''): void {
  if (can(kind, ability)) return;
  const { what, hint } = LACKS[ability];
  throw new KilnError('E_MACHINE', what(asked), { hint });
}

/** The kind of a sandbox whose record, policy or ground is at hand. */
export function kindOf({ machine }: { readonly machine?: unknown }): IsolationKind {
  return machine === undefined ? 'container' : 'vm';
}

/** What a plan that is shown says of the kinds. */
export const SHOWN: Readonly<
  Record<
    IsolationKind,
    { readonly wall: string | undefined; readonly image: (size: string) => string }
  >
> = {
  container: {
    wall: undefined,
    image: (size) =>
      `unpacked onto a disk of ${size} by a program in a sandbox, and mounted by no kernel`,
  },
  vm: {
    wall: 'a kernel of its own, in a virtual machine; the rest holds inside of it',
    image: () => 'mounted by the machine’s own kernel',
  },
};
