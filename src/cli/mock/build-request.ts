import { isAbsolute, join, resolve } from 'node:path';
import {
  type BuildRequest,
  type BuildSource,
  NETWORK_PHASES,
  type ShortCircuit,
} from '../../build/request.ts';
import { hostArchitecture } from '../../image/architecture.ts';
import type { Chroot } from '../../mock/chroot.ts';
import { mockDirectory } from '../../mock/config/defaults.ts';
import { shellWords } from '../../mock/shell-words.ts';
import { callerIds } from '../../run/request.ts';
import { parseSize } from '../values.ts';
import { usageError } from './command-line.ts';
import { addedRepositories, type MockSession } from './session.ts';

/** The build that mock's command line and configuration ask for. */
export function mockBuildRequest(
  session: MockSession,
  chroot: Chroot,
  source: BuildSource,
  resultDirectory: string,
): BuildRequest {
  const { line } = session;
  const timeout = timeoutOf(session, chroot);
  const target = line.value('target') ?? chroot.target;
  const shortCircuit = line.value('short-circuit');
  if (shortCircuit === 'prep') {
    throw usageError(
      '--short-circuit prep: rpmbuild itself can only go on from build, install or binary',
    );
  }
  const network = chroot.network || line.has('enable-network');
  const caches =
    chroot.ccache === undefined ? [] : [{ name: 'ccache', bytes: parseSize(chroot.ccache) }];
  return {
    image: chroot.recipe,
    source,
    resultDirectory,
    caller: callerIds(),
    defines: line.values('define').map(definition),
    with: line.values('with'),
    without: line.values('without'),
    nocheck: line.has('nocheck') || !chroot.check,
    rpmbuildOptions: shellWords(line.value('rpmbuild-opts') ?? chroot.rpmbuildOptions),
    additionalPackages: line.values('additional-package'),
    repositories: addedRepositories(session, hostArchitecture()),
    postinstall: line.has('postinstall') || chroot.postInstall,
    offline: line.has('offline'),
    caches,
    ...(target === undefined ? {} : { target }),
    ...(shortCircuit === undefined ? {} : { shortCircuit: shortCircuit as ShortCircuit }),
    ...(network ? { network: { use: 'host', phases: NETWORK_PHASES } } : {}),
    ...(timeout === undefined ? {} : { time: { timeout } }),
    ...(chroot.hostname === undefined ? {} : { hostname: chroot.hostname }),
  };
}

/** `MACRO EXPR`, with or without the percent sign that some callers write. */
function definition(text: string): string {
  const match = /^\s*%?([A-Za-z_]\w*(?:\(.*?\))?)\s+([\s\S]*)$/.exec(text);
  if (match === null) {
    throw usageError(
      `Bad option for '--define' (${text}).  Use --define 'macro expr'`,
      'a macro has a name and, after a blank, what it stands for',
    );
  }
  return `${match[1]} ${match[2]}`;
}

/** Milliseconds. */
function timeoutOf({ line }: MockSession, chroot: Chroot): number | undefined {
  const text = line.value('rpmbuild_timeout');
  if (text !== undefined && !/^\d+$/.test(text)) {
    throw usageError(`--rpmbuild_timeout ${text}: it is a number of seconds`);
  }
  const seconds = text === undefined ? chroot.rpmbuildTimeout : Number(text);
  return seconds > 0 ? seconds * 1000 : undefined;
}

/** Where results go: absolute. */
export function resultDirectoryOf(chroot: Chroot): string {
  return isAbsolute(chroot.resultDirectory)
    ? chroot.resultDirectory
    : resolve(chroot.resultDirectory);
}

/**
 * Whether results lie in the root's own folder, as they do unless somebody says otherwise: mock
 * then leaves the root as the build left it.
 */
export function resultsLieInRoot({ engine }: MockSession, chroot: Chroot): boolean {
  const own = join(mockDirectory(engine.paths), chroot.root);
  return `${resultDirectoryOf(chroot)}/`.startsWith(`${own}/`);
}
