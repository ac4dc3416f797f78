/** What the probe (probe.c) prints: what it found by trying. */
export interface Measured {
  readonly door: string;
  /** What each points to, by number. */
  readonly descriptors: Readonly<Record<string, string>>;
  /** Hexadecimal masks. */
  readonly capabilities: Readonly<
    Record<'effective' | 'permitted' | 'inheritable' | 'bounding' | 'ambient', string>
  >;
  readonly noNewPrivileges: number;
  readonly seccomp: number;
  readonly ids: {
    /** Real, effective, saved, of files. */
    readonly uid: readonly number[];
    readonly gid: readonly number[];
    readonly groups: readonly number[];
    /** First id inside, first outside, count. */
    readonly uidMap: readonly (readonly number[])[];
    readonly gidMap: readonly (readonly number[])[];
  };
  /** A variable of whoever called kiln that is seen, or nothing. */
  readonly environment: string;
  /** Inodes in /proc/self/ns, by kind. */
  readonly namespaces: Readonly<Record<string, number>>;
  /** What making one came to, by kind. */
  readonly made: Readonly<Record<string, string>>;
  /** The name of an errno, or `done`, by call. */
  readonly calls: Readonly<Record<string, string>>;
  /** Those that could be opened: family, type, protocol. */
  readonly sockets: readonly string[];
  /** Path, type, and of its options r (read-only), s (nosuid), d (nodev). */
  readonly mounts: readonly (readonly [path: string, type: string, options: string])[];
  /** Files of the kernel's and the host's that can be read, or opened to be written. */
  readonly hostFiles: readonly string[];
  /** Device nodes in /dev. */
  readonly devices: readonly string[];
  readonly network: Readonly<Record<'abstract' | 'own abstract' | 'loopback', string>>;
  /** What setting set-id bits came to. */
  readonly setId: string;
  /** What making a device node came to that needs no capability. */
  readonly whiteout: string;
  readonly core: {
    /** RLIMIT_CORE, -1 for none. */
    readonly limit: readonly [soft: number, hard: number];
    /** What changing the limit, to less or more, came to. */
    readonly changed: string;
    readonly dumped: boolean;
  };
  /** How many could be taken of what the host has for all, to one more than a sandbox may have. */
  readonly shares: Readonly<
    Record<'terminals' | 'signals' | 'netlink' | 'inotify' | 'inotifyShare', number>
  > & { readonly aio: string };
  /** How many processes could be made, of 300. */
  readonly processes: number;
}

const MARK = /^.*?kiln-probe (\{.*\})\r?$/gm;

/** All that is in a text, by door; of a door that was measured twice, the last. */
export function measuredIn(text: string): Map<string, Measured> {
  const all = [...text.matchAll(MARK)].map((match) => JSON.parse(match[1] ?? '') as Measured);
  return new Map(all.map((measured) => [measured.door, measured]));
}
