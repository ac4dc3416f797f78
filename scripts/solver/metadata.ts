/** A repository of a world as metadata only: nobody downloads its packages. */
import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  nevraOf,
  type WorldGroup,
  type WorldPackage,
  type WorldRepository,
  type WorldStream,
} from './world.ts';

/** Makes `directory`/repodata. */
export async function writeRepository(
  directory: string,
  repository: WorldRepository,
): Promise<void> {
  const { packages, groups, streams } = repository;
  const repodata = join(directory, 'repodata');
  await mkdir(repodata, { recursive: true });
  const parts: Record<string, string> = {
    primary: primary(packages),
    filelists: filelists(packages),
    ...(groups.length > 0 ? { group: comps(groups) } : {}),
    ...(streams.length > 0 ? { modules: modules(repository) } : {}),
  };
  const data: string[] = [];
  for (const [type, text] of Object.entries(parts)) {
    const name = `${type}.${type === 'modules' ? 'yaml' : 'xml'}`;
    await writeFile(join(repodata, name), text);
    const digest = sha256(text);
    data.push(
      `<data type="${type}"><checksum type="sha256">${digest}</checksum>` +
        `<location href="repodata/${name}"/><size>${Buffer.byteLength(text)}</size></data>`,
    );
  }
  const index = `<repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>1</revision>${data.join('')}</repomd>`;
  await writeFile(join(repodata, 'repomd.xml'), index);
}

function primary(packages: readonly WorldPackage[]): string {
  const entries = packages.map((one) => {
    const { name, epoch, version, release, arch } = one;
    const own = `${name} = ${epoch}:${version}-${release}`;
    const list = (tag: string, values: readonly string[]) =>
      `<rpm:${tag}>${values.map(entry).join('')}</rpm:${tag}>`;
    const files = one.files.filter((path) => path.startsWith('/etc/') || path.includes('bin/'));
    return (
      `<package type="rpm"><name>${name}</name><arch>${arch}</arch>` +
      `<version epoch="${epoch}" ver="${version}" rel="${release}"/>` +
      `<checksum type="sha256" pkgid="YES">${pkgid(one)}</checksum>` +
      `<summary>x</summary><description>x</description><packager/><url/>` +
      `<time file="1" build="1"/><size package="1000" installed="1000" archive="1000"/>` +
      `<location href="${nevraOf(one).replace(/:/g, '_')}.rpm"/><format>` +
      `<rpm:license>MIT</rpm:license><rpm:vendor/><rpm:group/><rpm:buildhost/><rpm:sourcerpm/>` +
      list('provides', [...one.provides, own]) +
      list('requires', one.requires) +
      list('recommends', one.recommends) +
      list('suggests', one.suggests) +
      list('supplements', one.supplements) +
      list('conflicts', one.conflicts) +
      list('obsoletes', one.obsoletes) +
      files.map((path) => `<file>${path}</file>`).join('') +
      `</format></package>`
    );
  });
  return (
    `<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="${packages.length}">` +
    `${entries.join('')}</metadata>`
  );
}

const FLAGS: Readonly<Record<string, string>> = {
  '=': 'EQ',
  '>=': 'GE',
  '<=': 'LE',
  '<': 'LT',
  '>': 'GT',
};

function entry(dependency: string): string {
  const match = /^([^( ]\S*) (\S+) (?:(\d+):)?([^-]+)(?:-(.+))?$/.exec(dependency);
  if (match === null) return `<rpm:entry name="${dependency}"/>`;
  const [, name, operator = '', epoch = '0', version, release] = match;
  const rel = release === undefined ? '' : ` rel="${release}"`;
  return `<rpm:entry name="${name}" flags="${FLAGS[operator]}" epoch="${epoch}" ver="${version}"${rel}/>`;
}

function filelists(packages: readonly WorldPackage[]): string {
  const entries = packages.map((one) => {
    const { name, epoch, version, release, arch, files } = one;
    return (
      `<package pkgid="${pkgid(one)}" name="${name}" arch="${arch}">` +
      `<version epoch="${epoch}" ver="${version}" rel="${release}"/>` +
      `${files.map((path) => `<file>${path}</file>`).join('')}</package>`
    );
  });
  return `<filelists xmlns="http://linux.duke.edu/metadata/filelists" packages="${packages.length}">${entries.join('')}</filelists>`;
}

function comps(groups: readonly WorldGroup[]): string {
  const entries = groups.map(({ id, members }) => {
    const list = members.map(({ name, type, requires }) => {
      const condition = requires === undefined ? '' : ` requires="${requires}"`;
      return `<packagereq type="${type}"${condition}>${name}</packagereq>`;
    });
    return `<group><id>${id}</id><name>${id}</name><description>x</description><default>true</default><uservisible>true</uservisible><packagelist>${list.join('')}</packagelist></group>`;
  });
  return `<?xml version="1.0" encoding="UTF-8"?><comps>${entries.join('')}</comps>`;
}

function modules({ streams, defaults, defaultProfiles = {} }: WorldRepository): string {
  const documents: object[] = streams.map((one) => ({
    document: 'modulemd',
    version: 2,
    data: {
      name: one.name,
      stream: one.stream,
      version: one.version,
      context: one.context,
      ...(one.staticContext ? { static_context: true } : {}),
      arch: 'x86_64',
      summary: 'x',
      description: 'x',
      license: { module: ['MIT'] },
      dependencies: [{ requires: one.requires }],
      artifacts: { rpms: one.artifacts },
      ...(one.profiles === undefined ? {} : { profiles: profiles(one.profiles) }),
    },
  }));
  for (const [module, stream] of Object.entries(defaults)) {
    const data = { module, stream, profiles: defaultProfiles[module] ?? {} };
    documents.push({ document: 'modulemd-defaults', version: 1, data });
  }
  // JSON is YAML, too.
  return documents.map((one) => `---\n${JSON.stringify(one)}\n...\n`).join('');
}

function profiles(named: NonNullable<WorldStream['profiles']>) {
  return Object.fromEntries(Object.entries(named).map(([name, rpms]) => [name, { rpms }]));
}

function pkgid(one: WorldPackage): string {
  return sha256(JSON.stringify(one));
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
