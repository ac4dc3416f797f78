/** What each exit status means: docs/exit-status.md is written from it, and the help of commands has their part. */
export const EXIT_STATUSES = {
  'kiln run': [
    ['0-123, and others', 'the command’s own'],
    [124, 'a time limit was reached (--timeout, --stall-timeout)'],
    [125, 'kiln failed, the sandbox was killed, or an artifact is missing'],
    [126, 'the command cannot be executed'],
    [127, 'the image does not have the command'],
    ['128+n', 'signal n ended the command'],
  ],
  'kiln build': [
    [0, 'built'],
    [1, 'the build failed: a section of the spec, a limit, or no package came of it'],
    [3, 'the source package or spec is wrong'],
    [4, 'a package that the build requires is missing'],
    [5, '--postinstall or --verify failed'],
    [124, 'a time limit was reached'],
    [125, 'kiln failed, or the sandbox was killed'],
    [130, 'interrupted'],
  ],
  'kiln build --chain': [
    [0, 'all packages are there'],
    ['others', 'that of the first build that failed, in the order that you named them in'],
  ],
  'kiln build RECIPE': [
    [0, 'all steps went well, and all artifacts are there'],
    ['the step’s own', 'a command of a step failed; 1 if a function of a step failed otherwise'],
    [124, 'a time limit was reached'],
    [125, 'kiln failed: the recipe, a source or the image is wrong, or an artifact is missing'],
    [130, 'interrupted'],
  ],
  'kiln-mock': [
    [0, 'done'],
    [1, 'something else failed; a build that fails has rpmbuild’s own status'],
    [3, 'configuration or recipe'],
    [4, 'a chain is incomplete'],
    [5, 'command line'],
    [7, 'interrupted'],
    [10, 'no package came of the build'],
    [11, 'a time limit was reached (--rpmbuild_timeout)'],
    [20, 'root'],
    [30, 'packages or repositories'],
    [40, 'a source package that rpm cannot read or unpack'],
    [50, 'arguments'],
    [60, 'the root is locked'],
    [70, 'result folder'],
    [80, 'sandbox'],
    [126, 'a command cannot be executed'],
    [127, 'the image does not have a command'],
    ['128+n', 'signal n ended a command'],
  ],
  'kiln rpm query': [
    [0, 'all files were read'],
    [1, 'a file could not be read'],
  ],
  'kiln rpm verify': [
    [0, 'undamaged, and signed by a key of the keyring'],
    [1, 'undamaged, but unsigned or signed by an unknown key'],
    [2, 'damaged, or changed after signing; of several files, the highest status counts'],
  ],
  'kiln rpm unpack': [
    [0, 'all packages were unpacked'],
    [1, 'a package was refused or damaged: nothing of it is left'],
  ],
  'kiln gc': [
    [0, 'done'],
    [1, '--verify found damage, or could not compare everything'],
  ],
  'kiln doctor': [
    [0, 'every job can run; there may be things to watch'],
    [1, 'something essential is missing'],
  ],
  'kiln farm step': [
    [0, 'done'],
    [65, 'the package’s fault'],
    [75, 'this machine’s fault: try it elsewhere'],
  ],
} as const satisfies Readonly<Record<string, readonly (readonly [number | string, string])[]>>;

/** The part of a command's help that tells its exit statuses. */
export function exitStatusHelp(command: keyof typeof EXIT_STATUSES): string {
  const all = EXIT_STATUSES[command].map(([status, meaning]) => `${status} ${meaning}`);
  return `\nExit status: ${all.join('; ')}.\n`;
}
