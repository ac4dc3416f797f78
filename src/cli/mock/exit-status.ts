import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { signalNumber } from '../../sandbox/command/process.ts';

/** mock's exit codes (mockbuild/exception.py names them). */
export const MOCK_STATUS = {
  /** A failure; also the status of rpmbuild when a package does not build. */
  error: 1,
  /** A mistake in the configuration. */
  config: 3,
  /** --chain: not all packages were built. */
  chain: 4,
  /** A mistake in the command line. */
  usage: 5,
  interrupted: 7,
  /** The build failed beside rpmbuild's own status: it made no packages. */
  build: 10,
  timeout: 11,
  /** A failure of the root. */
  root: 20,
  /** A failure of packages or repositories. */
  packages: 30,
  /** The file is not a source package. */
  srpm: 40,
  /** Arguments that cannot be right, such as missing files. */
  arguments: 50,
  locked: 60,
  resultdir: 70,
  /** A sandbox could not be made. */
  sandbox: 80,
  signalled: 128,
} as const;

const BY_CODE: Readonly<Partial<Record<ErrorCode, number>>> = {
  E_COMMAND_NOT_FOUND: 127,
  E_COMMAND_NOT_EXECUTABLE: 126,
  E_MOCK_USAGE: MOCK_STATUS.usage,
  E_MOCK_CONFIG: MOCK_STATUS.config,
  E_MOCK_ARGUMENT: MOCK_STATUS.arguments,
  E_ARGUMENT: MOCK_STATUS.arguments,
  E_MOCK_ROOT_LOCKED: MOCK_STATUS.locked,
  E_MOCK_ROOT_NAME: MOCK_STATUS.config,
  E_MOCK_PACKAGES: MOCK_STATUS.packages,
  E_INTERRUPTED: MOCK_STATUS.interrupted,
  E_RESULTDIR: MOCK_STATUS.resultdir,
  E_ARTIFACT_WRITE: MOCK_STATUS.resultdir,
  E_BUILD_SOURCE: MOCK_STATUS.srpm,
  E_BUILD_SRPM: MOCK_STATUS.srpm,
  E_BUILD_ARCH: MOCK_STATUS.build,
  E_BUILD_OUTPUT: MOCK_STATUS.build,
  E_BUILD_LOOP: MOCK_STATUS.packages,
  E_BUILD_POSTINSTALL: MOCK_STATUS.packages,
  E_BUILD_REPOSITORIES: MOCK_STATUS.packages,
  E_FILE_CONFLICT: MOCK_STATUS.packages,
  E_SCRIPTLET: MOCK_STATUS.packages,
  E_DOWNLOAD: MOCK_STATUS.packages,
  E_KEY_MISSING: MOCK_STATUS.packages,
  E_COPY_IN: MOCK_STATUS.arguments,
  E_DISK_LOW: MOCK_STATUS.root,
  E_NO_USER: MOCK_STATUS.root,
  E_WORKDIR: MOCK_STATUS.root,
};

const BY_PREFIX: readonly (readonly [string, number])[] = [
  ['E_SOLVER_', MOCK_STATUS.packages],
  ['E_REPOSITORY_', MOCK_STATUS.packages],
  ['E_RPM_', MOCK_STATUS.packages],
  ['E_RECIPE', MOCK_STATUS.config],
  ['E_IMAGE_', MOCK_STATUS.config],
  ['E_LIBVIRT', MOCK_STATUS.sandbox],
  ['E_SETUP', MOCK_STATUS.sandbox],
  ['E_LAYER_', MOCK_STATUS.sandbox],
];

/** mock's exit status for an error. */
export function mockStatus(error: unknown): number {
  if (!(error instanceof KilnError)) return MOCK_STATUS.error;
  const { code } = error;
  const known = BY_CODE[code] ?? BY_PREFIX.find(([prefix]) => code.startsWith(prefix))?.[1];
  return known ?? MOCK_STATUS.error;
}

/** The status of an ended command, as a shell reports it. */
export function commandStatus(end: {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
}): number {
  if (end.signal !== null) return MOCK_STATUS.signalled + signalNumber(end.signal);
  return end.exitCode ?? MOCK_STATUS.error;
}

/** The error for an argument that cannot be right (mock: exit status 50). */
export function argumentError(message: string, hint?: string): KilnError {
  return new KilnError('E_MOCK_ARGUMENT', message, { hint });
}
