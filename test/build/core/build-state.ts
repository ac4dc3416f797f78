import { existsSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { ownPath } from '../../../src/host/files/held.ts';
import { buildPackage } from '../../../src/jobs/rpmbuild/build.ts';
import type { BuildHooks, BuildReport } from '../../../src/jobs/rpmbuild/outcome/report.ts';
import type { BuildRequest } from '../../../src/jobs/rpmbuild/request.ts';
import { debianRepository, type ImageState, imageState } from '../../image/image-state.ts';
import { until } from '../../support/eventually.ts';
import { NOARCH_ROOT, type UnpackedSet } from '../../support/unpacked-packages.ts';

/** What a spec has; every part is optional. */
export interface SpecParts {
  readonly name: string;
  readonly preamble?: string;
  readonly prep?: string;
  readonly buildrequires?: string;
  readonly build?: string;
  readonly install?: string;
  readonly check?: string;
  /** Scriptlets and other sections. */
  readonly sections?: string;
  /** Without, the spec makes no package. */
  readonly files?: string | false;
  readonly sources?: Readonly<Record<string, string>>;
}

/** The text of a spec file. */
export function specText(parts: SpecParts): string {
  const { name, preamble = '', prep = '', build = '', install = '', check } = parts;
  const sources = Object.keys(parts.sources ?? {}).map((file, n) => `Source${n}: ${file}`);
  const files = parts.files ?? `/usr/share/${name}`;
  return `
Name: ${name}
Version: 1
Release: 1
Summary: Test
License: MIT
${sources.join('\n')}
${preamble}
%global debug_package %{nil}
%description
Test.
%prep
${prep}
${parts.buildrequires === undefined ? '' : `%generate_buildrequires\n${parts.buildrequires}`}
%build
${build}
%install
mkdir -p %{buildroot}/usr/share/${name}
${install}
${check === undefined ? '' : `%check\n${check}`}
${parts.sections ?? ''}
${files === false ? '' : `%files\n${files}`}
`;
}

/** Makes a source package with the host's rpmbuild. @returns its path */
export async function sourcePackage(directory: string, parts: SpecParts): Promise<string> {
  const work = await mkdtemp(join(directory, 'srpm-'));
  const spec = join(work, `${parts.name}.spec`);
  await writeFile(spec, specText(parts));
  await mkdir(join(work, 'SOURCES'));
  for (const [file, content] of Object.entries(parts.sources ?? {})) {
    await writeFile(join(work, 'SOURCES', file), content);
  }
  await execa('rpmbuild', ['-bs', '--quiet', '--nodeps', '--define', `_topdir ${work}`, spec]);
  return join(work, 'SRPMS', `${parts.name}-1-1.src.rpm`);
}

/** A state with an image to build in, and a small repository of packages to build with. */
export interface BuildState extends AsyncDisposable {
  readonly images: ImageState;
  readonly recipe: string;
  readonly directory: string;
  /** The folder of the repository `tools`. */
  readonly tools: string;
  /** A new, empty directory. */
  fresh(): Promise<string>;
  /** Makes a source package and builds it. */
  build(parts: SpecParts, wanted?: Partial<BuildRequest>, hooks?: BuildHooks): Promise<BuildReport>;
  /** Everything a request needs but its source. */
  request(source: string, wanted?: Partial<BuildRequest>): Promise<BuildRequest>;
}

/**
 * Makes the state; disposing of it removes everything.
 * @param set what the image has: enough for noarch packages, or all of `@buildsys-build`
 */
export async function buildState(set: UnpackedSet): Promise<BuildState> {
  const images = await imageState({ unpacked: set });
  const { directory, engine } = images;
  const tools = await toolsRepository(join(directory, 'tools'));
  const recipe = await images.recipe('root', `${WANTED[set]}\n${RECIPE}`, [
    await debianRepository(),
    { id: 'tools', directory: tools },
  ]);
  let counter = 0;
  const fresh = async () => {
    const path = join(directory, `fresh-${counter++}`);
    await mkdir(path);
    return path;
  };
  const request = async (path: string, wanted: Partial<BuildRequest> = {}) => ({
    image: recipe,
    source: { kind: 'srpm' as const, path: ownPath(path) },
    resultDirectory: ownPath(await fresh()),
    caller: { uid: 0, gid: 0 },
    ...wanted,
  });
  return {
    images,
    recipe,
    directory,
    tools,
    fresh,
    request,
    build: async (parts, wanted, hooks) => {
      const path = await sourcePackage(await fresh(), parts);
      return await buildPackage(engine, await request(path, wanted), hooks);
    },
    [Symbol.asyncDispose]: () => images[Symbol.asyncDispose](),
  };
}

/**
 * What is left of builds: names of sandboxes, and of folders for what is half made. The daemon removes them after it
 * has told the caller.
 */
export async function leftovers(state: BuildState): Promise<string[]> {
  const { paths } = state.images.engine;
  const left = () =>
    [paths.sandboxes, join(paths.store, 'work')].flatMap((folder) =>
      existsSync(folder) ? readdirSync(folder) : [],
    );
  await until(() => left().length === 0);
  return left();
}

/** A file of a result directory. */
export async function resultFile(report: BuildReport, name: string): Promise<string> {
  return await readFile(join(report.resultDirectory, name), 'utf8');
}

/** What of the fixtures an image has. */
export const WANTED: Readonly<Record<UnpackedSet, string>> = {
  all: 'groups: [buildsys-build]',
  noarch: `packages: [${NOARCH_ROOT.join(', ')}]`,
};

const RECIPE = `users:
  - { name: build, uid: 1000, home: /builddir, shell: /bin/bash }
user: build
environment: { PATH: /usr/bin:/usr/sbin }
files:
  - { path: /etc/rpm/macros.test, content: "%_buildshell /bin/bash\\n" }
`;

/** tool-a, tool-b and tool-c, each a command of its name. */
async function toolsRepository(directory: string): Promise<string> {
  await mkdir(directory);
  const work = await mkdtemp(join(directory, '.work-'));
  for (const name of ['tool-a', 'tool-b', 'tool-c']) {
    const spec = join(work, `${name}.spec`);
    const install = `mkdir -p %{buildroot}/usr/bin; printf '#!/bin/sh\\necho ${name} says hello\\n' > %{buildroot}/usr/bin/${name}; chmod 755 %{buildroot}/usr/bin/${name}`;
    const text = specText({
      name,
      preamble: 'BuildArch: noarch',
      install,
      files: `/usr/share/${name}\n/usr/bin/${name}`,
    });
    await writeFile(spec, text);
    const options = ['--define', `_topdir ${work}`, '--define', `_rpmdir ${directory}`];
    await execa('rpmbuild', ['-bb', '--quiet', ...options, spec]);
  }
  await rm(work, { recursive: true });
  await execa('createrepo_c', ['--quiet', directory]);
  return directory;
}
