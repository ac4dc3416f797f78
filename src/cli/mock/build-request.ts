import { isAbsolute, resolve } from 'node:path';
import { macroDefinition } from '../../build/macro-definition.ts';
import {
  type BuildRequest,
  type BuildSource,
  NETWORK_PHASES,
  type ShortCircuit,
} from '../../build/request.ts';
import { hostArchitecture } from '../../image/key.ts';
import type { Chroot } from '../../mock/chroot.ts';
import { shellWords } from '../../shell-words.ts';
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
    caller: session.caller.ids,
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

/** `MACRO EXPR`. */
function definition(text: string): string {
  const read = macroDefinition(text);
  if (read === undefined) {
    throw usageError(
      `Bad option for '--define' (${text}).  Use --define 'macro expr'`,
      'a macro has a name and, after a blank, what it stands for',
    );
  }
  return read;
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
 * What becomes of the root after a build. As with mock, one whose results lie in its own folder, as
 * they do unless somebody says otherwise, stays as the build left it.
 */
export function cleanup(
  { line }: MockSession,
  chroot: Chroot,
): { readonly onSuccess: boolean; readonly onFailure: boolean } {
  const said = line.given.findLast(({ name }) => /^(?:no-)?cleanup-after$/.test(name));
  if (said !== undefined) {
    const all = said.name === 'cleanup-after';
    return { onSuccess: all, onFailure: all };
  }
  const own = resolve(chroot.basedir, chroot.root);
  const inside = `${resultDirectoryOf(chroot)}/`.startsWith(`${own}/`);
  return {
    onSuccess: !inside && chroot.cleanupOnSuccess,
    onFailure: !inside && chroot.cleanupOnFailure,
  };
}
