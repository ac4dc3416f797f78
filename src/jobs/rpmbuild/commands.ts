/** rpmbuild's command lines, and where a build lies in its sandbox. */
import { shellWord } from '../../shell-words.ts';
import type { BuildOptions, BuildRequest } from './request.ts';

/** The build user's home, as in mock: a file system of its own. */
export const BUILD_HOME = '/builddir';

export const TOP_DIRECTORY = `${BUILD_HOME}/build`;

/** Exit status of rpmbuild when BuildRequires are not met (RPMRC_MISSINGBUILDREQUIRES). */
export const MISSING_BUILDREQUIRES = 11;

/** ~/.rpmmacros: a person in a kept sandbox builds as kiln did. RPMs come out flat in RPMS/, as in mock. */
export function rpmMacros(top: string, hostname: string): string {
  return [
    `%_topdir ${top}`,
    '%_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm',
    // rpmbuild would ask a resolver, and a sandbox has none.
    `%_buildhost ${hostname}`,
    '',
  ].join('\n');
}

export function specOptions(request: BuildOptions): string[] {
  return [
    ...(request.target === undefined ? [] : ['--target', request.target]),
    ...(request.defines ?? []).flatMap((define) => ['--define', define]),
    ...(request.with ?? []).flatMap((name) => ['--with', name]),
    ...(request.without ?? []).flatMap((name) => ['--without', name]),
    ...(request.nocheck === true ? ['--nocheck'] : []),
    ...(request.rpmbuildOptions ?? []),
  ];
}

function shell(name: string, script: string, ...parameters: readonly string[]): string[] {
  // One stream for both outputs keeps them in order.
  return ['/bin/sh', '-c', `exec 2>&1; cd "$1" && shift && ${script}`, name, ...parameters];
}

export function commandLine(argv: readonly string[]): string {
  const [, , script = '', , , ...parameters] = argv;
  const written = script.slice(script.indexOf('&& shift && ') + '&& shift && '.length);
  const words = parameters.map((word) => `${shellWord(word)} `).join('');
  return written.replace(/\bexec /, '').replace('"$@" ', () => words);
}

export function unpackSource(top: string): string[] {
  const script =
    'rpm -i --nodeps originals/*.rpm && if [ -d replacement ]; then rm -f SPECS/*.spec && cp replacement/*.spec SPECS/; fi';
  return shell('unpack', script, top);
}

export function makeSourcePackage(top: string, options: readonly string[]): string[] {
  const script = 'rm -f SRPMS/*.rpm && exec rpmbuild "$@" -bs --nodeps SPECS/*.spec';
  return shell('srpm', script, top, ...options);
}

/**
 * {@link querySource} writes these before an architecture of ExclusiveArch, of ExcludeArch, the package's own, which
 * may be noarch, and the image's.
 */
export const ONLY_FOR = 'only for ';
export const NOT_FOR = 'not for ';
export const MADE_FOR = 'made for ';
export const BUILT_FOR = 'built for ';
/** {@link querySource} writes it before name-version-release. */
export const SOURCE_IS = 'source is ';

export function querySource(top: string): string[] {
  const query = 'rpm -qp --nosignature';
  const script = [
    `${query} --requires SRPMS/*src.rpm`,
    `${query} --qf '[${ONLY_FOR}%{EXCLUSIVEARCH}\\n][${NOT_FOR}%{EXCLUDEARCH}\\n]${MADE_FOR}%{ARCH}\\n${SOURCE_IS}%{NVR}\\n' SRPMS/*src.rpm`,
    `exec rpm --eval '${BUILT_FOR}%{_target_cpu}'`,
  ];
  return shell('requires', script.join(' && '), top);
}

/** Generates dynamic BuildRequires (-br); with --nodeps it always ends with {@link MISSING_BUILDREQUIRES}. */
export function generateBuildRequires(top: string, options: readonly string[]): string[] {
  return shell('buildrequires', 'exec rpmbuild "$@" -br --nodeps SPECS/*.spec', top, ...options);
}

export function queryGenerated(top: string): string[] {
  const script =
    'rpm -qp --nosignature --requires SRPMS/*.buildreqs.nosrc.rpm && rm SRPMS/*.buildreqs.nosrc.rpm';
  return shell('requires', script, top);
}

const SHORT_CIRCUIT = { build: '-bc', install: '-bi', binary: '-bb' } as const;

export interface BuildStart {
  /** %prep has run in this sandbox. */
  readonly prepDone: boolean;
  /** The spec has %generate_buildrequires. */
  readonly dynamic: boolean;
}

export function buildPackages(
  top: string,
  request: BuildRequest,
  { prepDone, dynamic }: BuildStart,
): string[] {
  const { shortCircuit, scratch } = request;
  // Only -ba writes generated requirements into the source package.
  const whole = [dynamic ? '-ba' : '-bb', ...(prepDone ? ['--noprep'] : [])];
  const stage =
    shortCircuit === undefined ? whole : [SHORT_CIRCUIT[shortCircuit], '--short-circuit'];
  // In a root that stays, the unpacked and installed files stay as well.
  const keep = scratch === undefined ? [] : ['--noclean'];
  const script = `${shortCircuit === undefined ? '' : 'rm -f RPMS/*.rpm && '}exec rpmbuild "$@" SPECS/*.spec`;
  return shell('build', script, top, ...specOptions(request), ...stage, ...keep);
}

/** Without requirements on rpm itself: the image's rpm answers those. */
export function withoutRpmlib(requires: readonly string[]): string[] {
  return requires.filter((line) => !line.startsWith('rpmlib('));
}

export function isDynamic(requires: readonly string[]): boolean {
  return requires.some((line) => line.startsWith('rpmlib(DynamicBuildRequires)'));
}
