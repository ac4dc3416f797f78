import { basename, resolve } from 'node:path';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { type HeldPath, openedPath } from '../../host/files/held.ts';
import { readUserText } from '../../host/files/user-file.ts';
import { hostArchitecture } from '../../host/process/architecture.ts';
import { macroDefinition, NETWORK_PHASES } from '../../options/build.ts';
import { sizeInBytes } from '../../options/measures.ts';
import {
  can,
  DEFAULT_ISOLATION,
  ISOLATION,
  type IsolationKind,
} from '../../sandbox/policy/ground-kinds.ts';
import { shellWords } from '../../shell-words.ts';
import type { BuildRequest, BuildSource } from '../rpmbuild/request.ts';
import type { Chroot } from './chroot.ts';
import { configError } from './config/values.ts';
import { usageError } from './outcome.ts';
import { rootCommand } from './root/root-sandbox.ts';
import { addedRepositories, type ChrootSession, isOffline, type MockLine } from './session.ts';

/** One of kiln's own words for `--isolation`; mock's have no effect. */
function chosenKind(line: Pick<MockLine, 'value'>): IsolationKind | undefined {
  const word = line.value('isolation');
  return ISOLATION.find((kind) => kind === word);
}

/** Whether a build has a fresh root in its sandbox, and none that stays. */
export function buildsBesideRoot(line: Pick<MockLine, 'value'>): boolean {
  return !can(chosenKind(line) ?? DEFAULT_ISOLATION, 'rootThatStays');
}

export function mockBuildRequest(
  session: ChrootSession,
  source: BuildSource,
  resultDirectory: HeldPath,
): BuildRequest {
  const { line, chroot } = session;
  const timeout = timeoutOf(session);
  const target = line.value('target') ?? chroot.target;
  const shortCircuit = line.value('short-circuit');
  if (shortCircuit === 'prep') {
    throw usageError(
      '--short-circuit prep: rpmbuild itself can only go on from build, install or binary',
    );
  }
  const network = chroot.network || line.has('enable-network');
  const caches =
    chroot.ccache === undefined ? [] : [{ name: 'ccache', bytes: cacheSize(chroot.ccache) }];
  return {
    image: chroot.recipe,
    source,
    resultDirectory,
    caller: session.caller.ids,
    defines: [
      ...macroFileDefines(line.value('macro-file')),
      ...line.values('define').map(definition),
    ],
    with: line.values('with'),
    without: line.values('without'),
    nocheck: line.has('nocheck') || !chroot.check,
    rpmbuildOptions: shellWords(line.value('rpmbuild-opts') ?? chroot.rpmbuildOptions),
    packages: [
      ...line.values('additional-package'),
      ...moreRequires(chroot, source),
      ...(chroot.ccache === undefined ? [] : ['ccache']),
    ],
    repositories: addedRepositories(session, session.line.value('forcearch') ?? hostArchitecture()),
    postinstall: line.has('postinstall') || chroot.postInstall,
    offline: isOffline(session),
    caches,
    binds: session.binds,
    omit: chroot.omit,
    scan: chroot.scan,
    shownAs: rootCommand(chroot.root, [basename(source.path)]),
    ...defined({ isolation: chosenKind(line) }),
    ...(network ? { networkPhases: NETWORK_PHASES, network: 'host' } : {}),
    ...defined({
      target,
      shortCircuit: shortCircuit as BuildRequest['shortCircuit'],
      timeout,
      hostname: chroot.hostname,
    }),
  };
}

function cacheSize(text: string): number {
  const bytes = sizeInBytes(text);
  if (bytes === undefined) throw configError(`max_cache_size of ccache: ${text} is not a size`);
  return bytes;
}

/** The packages of more_buildreqs for a source, by name-version-release, name-version, or name. */
function moreRequires({ moreBuildRequires }: Chroot, { path }: BuildSource): readonly string[] {
  const full = basename(path).replace(/(?:\.(?:no)?src)?\.(?:rpm|spec)$/, '');
  const shorter = full.replace(/-[^-]*$/, '');
  const names = [full, shorter, shorter.replace(/-[^-]*$/, '')];
  const found = names.find((name) => moreBuildRequires.has(name));
  return moreBuildRequires.get(found ?? '') ?? [];
}

/** The most bytes of a file of macros. */
const MAX_MACROS = 2 ** 20;

/** The macros of `--macro-file`, as rpm reads its own files. */
function macroFileDefines(path: string | undefined): string[] {
  if (path === undefined) return [];
  const refusal = (cause: unknown) =>
    new KilnError('E_MOCK_USAGE', `Input rpm macros file cannot be read: ${path}`, {
      cause,
      hint: '--macro-file names a file with macros, as ~/.rpmmacros',
    });
  const text = readUserText(openedPath(path), MAX_MACROS, refusal);
  const macros = wholeLines(text).filter((line) => /^\s*%/.test(line));
  return macros.map((line) => definition(line.trim()));
}

/** A line goes on after a backslash, and within the brackets of a `%{` or `%(`; rpm removes the backslashes. */
function wholeLines(text: string): string[] {
  const whole: string[] = [];
  let isOpen = false;
  let [braces, parentheses] = [0, 0];
  for (const line of text.split(/\r?\n/)) {
    for (const [token] of line.matchAll(/\\.|%%|%?[{(]|[})]/g)) {
      if (token === '%{' || (token === '{' && braces > 0)) braces++;
      else if (token === '%(' || (token === '(' && parentheses > 0)) parentheses++;
      else if (token === '}' && braces > 0) braces--;
      else if (token === ')' && parentheses > 0) parentheses--;
    }
    if (isOpen) whole.push(`${whole.pop()}\n${line}`);
    else whole.push(line);
    isOpen = braces + parentheses > 0 || line.endsWith('\\');
  }
  return whole;
}

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
function timeoutOf({ line, chroot }: ChrootSession): number | undefined {
  const text = line.value('rpmbuild_timeout');
  if (text !== undefined && !/^\d+$/.test(text)) {
    throw usageError(`--rpmbuild_timeout ${text}: it is a number of seconds`);
  }
  const seconds = text === undefined ? chroot.rpmbuildTimeout : Number(text);
  return seconds > 0 ? seconds * 1000 : undefined;
}

/**
 * What happens to the root after a build. As with mock, a root whose results lie in its own folder (the
 * default) stays as the build left it.
 */
export function cleanup({ engine, line, chroot }: ChrootSession): {
  readonly onSuccess: boolean;
  readonly onFailure: boolean;
} {
  if (engine.owner !== undefined) return { onSuccess: true, onFailure: true };
  const said = line.of('cleanup-after', 'no-cleanup-after').at(-1);
  if (said !== undefined) {
    const all = said.name === 'cleanup-after';
    return { onSuccess: all, onFailure: all };
  }
  const own = resolve(chroot.basedir, chroot.root);
  const inside = `${resolve(chroot.resultDirectory)}/`.startsWith(`${own}/`);
  return {
    onSuccess: !inside && chroot.cleanupOnSuccess,
    onFailure: !inside && chroot.cleanupOnFailure,
  };
}
