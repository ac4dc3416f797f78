/**
 * What a command leaves for the host's side of kiln: for its terminal, for what it reports, and for
 * what collects artifacts. host-side.test.ts has how each is tried.
 */

/** Made in the folder OUT; whoever fetches it without care gets what was aimed at. */
export interface LureAttempt {
  readonly verb: string;
  readonly tries: string;
  /** Of sh, as root; SECRET is a file that only the host has, in the folder SECRETS. */
  readonly script: string;
  /** How cp(1) would be called by somebody without care: the other half. */
  readonly careless: string;
  /** Of sh, in the folder with what came out: succeeds where it got through. */
  readonly through: string;
  /** No sandbox can make it on the host: the other half has none. */
  readonly withoutSandbox?: true;
}

export const lures: readonly LureAttempt[] = [
  {
    verb: 'artifact-link',
    tries: 'a link to a file of the host’s among the artifacts',
    script: 'ln -s "$SECRET" "$OUT/lure"',
    careless: '-rL',
    through: 'grep -q "the host’s" lure',
  },
  {
    verb: 'artifact-folder-link',
    tries: 'a link to its folder',
    script: 'ln -s "$SECRETS" "$OUT/lure"',
    careless: '-rL',
    through: 'grep -q "the host’s" lure/*',
  },
  {
    verb: 'artifact-setuid',
    tries: 'a setuid program among the artifacts',
    script: 'cp /bin/busybox "$OUT/lure" && chmod 4755 "$OUT/lure"',
    careless: '-a',
    through: 'test -u lure',
    withoutSandbox: true,
  },
  {
    verb: 'artifact-fifo',
    tries: 'a pipe, which whoever reads the artifacts waits at',
    script: 'mknod "$OUT/lure" p',
    careless: '-a',
    through: 'test -p lure',
  },
];

/** What has a test of its own there. */
const told: readonly { readonly verb: string; readonly tries: string }[] = [
  { verb: 'tiocsti', tries: 'typing on the caller’s terminal' },
  { verb: 'forged-status', tries: 'another exit status than its own' },
  { verb: 'forged-other-status', tries: 'the exit status of another command' },
];

export const hostSideAttempts = [...told, ...lures];
