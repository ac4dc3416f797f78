import { shellWord } from '../../shell-words.ts';
import type { BuildRequest } from './request.ts';

/** The build user's home, as mock has it. It is a file system of its own. */
export const BUILD_HOME = '/builddir';

/** rpm's %_topdir in a sandbox, as mock has it. */
export const TOP_DIRECTORY = `${BUILD_HOME}/build`;

/** Exit status of rpmbuild when BuildRequires are not met (RPMRC_MISSINGBUILDREQUIRES). */
export const MISSING_BUILDREQUIRES = 11;

/**
 * ~/.rpmmacros of a sandbox: whoever enters a kept one builds as kiln did. RPMs come out flat in RPMS/,
 * as in mock.
 */
export function rpmMacros(top: string, hostname: string): string {
  return [
    `%_topdir ${top}`,
    '%_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm',
    // rpmbuild would ask a resolver, and a sandbox has none.
    `%_buildhost ${hostname}`,
    '',
  ].join('\n');
}

/** Options that decide what a spec means: every call of rpmbuild for one build has the same. */
export function specOptions(request: BuildRequest): string[] {
  return [
    ...(request.target === undefined ? [] : ['--target', request.target]),
    ...(request.defines ?? []).flatMap((define) => ['--define', define]),
    ...(request.with ?? []).flatMap((name) => ['--with', name]),
    ...(request.without ?? []).flatMap((name) => ['--without', name]),
    ...(request.nocheck === true ? ['--nocheck'] : []),
    ...(request.rpmbuildOptions ?? []),
  ];
}

/** What a sandbox is asked to run: a script for the image's own shell, and its arguments. */
function shell(name: string, script: string, ...parameters: readonly string[]): string[] {
  // One stream for both outputs: what rpmbuild says stays beside what it is about.
  return ['/bin/sh', '-c', `exec 2>&1; cd "$1" && shift && ${script}`, name, ...parameters];
}

/**
 * What a command of this module runs, as a person would write it: for logs.
 * @param argv as {@link shell} makes them
 */
export function commandLine(argv: readonly string[]): string {
  const [, , script = '', , , ...parameters] = argv;
  const written = script.slice(script.indexOf('&& shift && ') + '&& shift && '.length);
  const words = parameters.map((word) => `${shellWord(word)} `).join('');
  return written.replace(/\bexec /, '').replace('"$@" ', () => words);
}

/**
 * Unpacks the source package in `originals` into SPECS and SOURCES. A spec in `replacement` takes the
 * place of the package's own.
 */
export function unpackSource(top: string): string[] {
  const script =
    'rpm -i --nodeps originals/*.rpm && if [ -d replacement ]; then rm -f SPECS/*.spec && cp replacement/*.spec SPECS/; fi';
  return shell('unpack', script, top);
}

/** Makes the source package, with the macros of the image. */
export function makeSourcePackage(top: string, options: readonly string[]): string[] {
  return shell(
    'srpm',
    'rm -f SRPMS/*.rpm && exec rpmbuild "$@" -bs --nodeps SPECS/*.spec',
    top,
    ...options,
  );
}

/** What {@link querySource} writes before an architecture of ExclusiveArch, and before the image's own. */
export const ONLY_FOR = 'only for ';
export const BUILT_FOR = 'built for ';

/**
 * Prints what the source package requires, one requirement a line, and then for which architectures it
 * is and what the image builds for.
 */
export function querySource(top: string): string[] {
  const query = 'rpm -qp --nosignature';
  const script = [
    `${query} --requires SRPMS/*src.rpm`,
    `${query} --qf '[${ONLY_FOR}%{EXCLUSIVEARCH}\\n]' SRPMS/*src.rpm`,
    `exec rpm --eval '${BUILT_FOR}%{_target_cpu}'`,
  ];
  return shell('requires', script.join(' && '), top);
}

/**
 * Has the spec generate its dynamic BuildRequires: rpmbuild's -br. Without its check of what is
 * there it always writes down what is required, and always ends with {@link MISSING_BUILDREQUIRES}.
 */
export function generateBuildRequires(top: string, options: readonly string[]): string[] {
  return shell('buildrequires', 'exec rpmbuild "$@" -br --nodeps SPECS/*.spec', top, ...options);
}

/** Prints what {@link generateBuildRequires} found, and removes the package it is in. */
export function queryGenerated(top: string): string[] {
  const script =
    'rpm -qp --nosignature --requires SRPMS/*.buildreqs.nosrc.rpm && rm SRPMS/*.buildreqs.nosrc.rpm';
  return shell('requires', script, top);
}

const SHORT_CIRCUIT = { build: '-bc', install: '-bi', binary: '-bb' } as const;

/**
 * Makes the binary packages.
 * @param prepared %prep has run in this sandbox already
 */
export function buildPackages(
  top: string,
  request: Pick<BuildRequest, 'shortCircuit' | 'scratch'> & Parameters<typeof specOptions>[0],
  prepared: boolean,
): string[] {
  const { shortCircuit, scratch } = request;
  const whole = prepared ? ['-bb', '--noprep'] : ['-bb'];
  const stage =
    shortCircuit === undefined ? whole : [SHORT_CIRCUIT[shortCircuit], '--short-circuit'];
  // rpmbuild removes what it unpacked and installed; who comes back to a root goes on from there.
  const keep = scratch === undefined ? [] : ['--noclean'];
  // Packages of an earlier build are no results of this one.
  const script = `${shortCircuit === undefined ? '' : 'rm -f RPMS/*.rpm && '}exec rpmbuild "$@" SPECS/*.spec`;
  return shell('build', script, top, ...specOptions(request), ...stage, ...keep);
}

/** Without requirements on rpm itself: the image's rpm answers those. */
export function withoutRpmlib(requires: readonly string[]): string[] {
  return requires.filter((line) => !line.startsWith('rpmlib('));
}

/** Whether these are requirements of a spec that has %generate_buildrequires. */
export function isDynamic(requires: readonly string[]): boolean {
  return requires.some((line) => line.startsWith('rpmlib(DynamicBuildRequires)'));
}
