/**
 * repodata/: the three lists of packages, and repomd.xml, which names them by digest. Source of the format:
 * createrepo_c's output, and libsolv's repo_rpmmd.c, which reads it.
 */
import { hash } from 'node:crypto';
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { parseEvr, Sense } from '../../rpm/dependency.ts';
import type { RpmDependency, RpmDependencyKind, RpmFile, RpmPackage } from '../../rpm/package.ts';
import { isPrimaryFile } from '../metadata/repomd.ts';

interface PlacedPackage {
  readonly package: RpmPackage;
  readonly sha256: string;
  readonly location: string;
}

interface PackageElements {
  readonly primary: string;
  readonly filelists: string;
  readonly other: string;
}

export function packageElements(placed: PlacedPackage): PackageElements {
  const { package: rpm, sha256 } = placed;
  const { epoch, version, release } = rpm;
  const evr = element('version', { epoch: epoch ?? 0, ver: version, rel: release });
  const head = `<package${attributes({ pkgid: sha256, name: rpm.name, arch: rpm.arch })}>${evr}`;
  const changes = rpm.changelog.toReversed();
  return {
    primary: primary(placed, evr),
    filelists: `${head}${rpm.files.map(fileElement).join('')}</package>`,
    other: `${head}${changes.map(({ author, date, text }) => element('changelog', { author, date }, text)).join('')}</package>`,
  };
}

function primary({ package: rpm, sha256, location }: PlacedPackage, evr: string): string {
  const time = rpm.buildTime ?? 0;
  const archive = rpm.payload.archiveSize ?? 0;
  const { start, end } = rpm.headerRange;
  return [
    '<package type="rpm">',
    element('name', {}, rpm.name),
    element('arch', {}, rpm.arch),
    evr,
    element('checksum', { type: 'sha256', pkgid: 'YES' }, sha256),
    element('summary', {}, rpm.summary),
    element('description', {}, rpm.description),
    element('packager', {}, rpm.packager),
    element('url', {}, rpm.url),
    element('time', { file: time, build: time }),
    element('size', { package: rpm.packageSize, installed: rpm.installedSize, archive }),
    element('location', { href: location }),
    '<format>',
    element('rpm:license', {}, rpm.license),
    element('rpm:vendor', {}, rpm.vendor),
    element('rpm:group', {}, rpm.group),
    element('rpm:buildhost', {}, rpm.buildHost),
    element('rpm:sourcerpm', {}, rpm.sourceRpm ?? ''),
    element('rpm:header-range', { start, end }),
    ...KINDS.map((kind) => dependencies(kind, rpm)),
    ...rpm.files.filter(({ path }) => isPrimaryFile(path)).map(fileElement),
    '</format></package>',
  ].join('');
}

const KINDS = [
  ...(['provides', 'requires', 'conflicts', 'obsoletes'] as const),
  ...(['suggests', 'enhances', 'recommends', 'supplements'] as const),
] satisfies RpmDependencyKind[];

const FLAGS: Readonly<Record<string, string>> = {
  '=': 'EQ',
  '<': 'LT',
  '<=': 'LE',
  '>': 'GT',
  '>=': 'GE',
};

/** Flags that createrepo_c reads as a scriptlet's requirement. */
const BEFORE = Sense.prereq | Sense.scriptPre | Sense.scriptPost;

function dependencies(kind: RpmDependencyKind, rpm: RpmPackage): string {
  // A solver needs neither rpm's own features nor what the package itself contains.
  const own = new Set(rpm.files.map(({ path }) => path).filter(isPrimaryFile));
  const asked = rpm.dependencies[kind].filter(
    ({ name }) => kind !== 'requires' || !(name.startsWith('rpmlib(') || own.has(name)),
  );
  const entries = new Set(asked.map((entry) => dependencyElement(kind, entry)));
  if (entries.size === 0) return '';
  return `<rpm:${kind}>${[...entries].join('')}</rpm:${kind}>`;
}

function dependencyElement(
  kind: RpmDependencyKind,
  { name, operator, version, flags }: RpmDependency,
): string {
  const { epoch, version: ver, release } = parseEvr(version);
  const condition =
    FLAGS[operator] === undefined
      ? {}
      : {
          flags: FLAGS[operator],
          epoch: epoch ?? 0,
          ver,
          ...(release === '' ? {} : { rel: release }),
        };
  const before = kind === 'requires' && (flags & BEFORE) !== 0 ? { pre: 1 } : {};
  return element('rpm:entry', { name, ...condition, ...before });
}

function fileElement({ path, type, flags }: RpmFile): string {
  if (type === 'directory') return element('file', { type: 'dir' }, path);
  return element('file', flags.includes('ghost') ? { type: 'ghost' } : {}, path);
}

function element(
  name: string,
  values: Readonly<Record<string, string | number>>,
  text = '',
): string {
  const start = `<${name}${attributes(values)}`;
  return text === '' ? `${start}/>` : `${start}>${escapeXml(text)}</${name}>`;
}

function attributes(values: Readonly<Record<string, string | number>>): string {
  return Object.entries(values)
    .map(([key, value]) => ` ${key}="${escapeXml(String(value))}"`)
    .join('');
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
};

/** Drops characters that XML 1.0 cannot contain (section 2.2), as createrepo_c does. */
function escapeXml(text: string): string {
  return text
    .toWellFormed()
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, '')
    .replace(/[&<>"]/g, (character) => ENTITIES[character] ?? '');
}

const compress = promisify(gzip);

const XML = '<?xml version="1.0" encoding="UTF-8"?>\n';
const COMMON = 'http://linux.duke.edu/metadata';

const ROOTS: Readonly<Record<keyof PackageElements, readonly [string, string]>> = {
  primary: ['metadata', `xmlns="${COMMON}/common" xmlns:rpm="${COMMON}/rpm"`],
  filelists: ['filelists', `xmlns="${COMMON}/filelists"`],
  other: ['otherdata', `xmlns="${COMMON}/other"`],
};

/**
 * Writes `repodata/` into `directory`, durably. Equal packages in equal order give equal bytes.
 * @param revision stands in for the time: seconds since 1970
 */
export async function writeRepodata(
  directory: string,
  packages: readonly PackageElements[],
  revision: number,
): Promise<void> {
  const folder = join(directory, 'repodata');
  await mkdir(folder, { mode: 0o755 });
  const entries: string[] = [];
  for (const type of ['primary', 'filelists', 'other'] as const) {
    const [root, namespaces] = ROOTS[type];
    const body = packages.map((entry) => `${entry[type]}\n`).join('');
    const text = `${XML}<${root} ${namespaces} packages="${packages.length}">\n${body}</${root}>\n`;
    const content = Buffer.from(text);
    // gzip: every reader of repositories knows it.
    const compressed = await compress(content, { level: 6 });
    const checksum = hash('sha256', compressed, 'hex');
    const location = `repodata/${checksum}-${type}.xml.gz`;
    await writeDurably(join(directory, location), compressed);
    entries.push(
      [
        `<data type="${type}">`,
        element('checksum', { type: 'sha256' }, checksum),
        element('open-checksum', { type: 'sha256' }, hash('sha256', content, 'hex')),
        element('location', { href: location }),
        element('timestamp', {}, String(revision)),
        element('size', {}, String(compressed.length)),
        element('open-size', {}, String(content.length)),
        '</data>',
      ].join('\n'),
    );
  }
  const head = `<repomd xmlns="${COMMON}/repo" xmlns:rpm="${COMMON}/rpm">`;
  const parts = [head, element('revision', {}, String(revision)), ...entries, '</repomd>\n'];
  await writeDurably(join(folder, 'repomd.xml'), Buffer.from(XML + parts.join('\n')));
  await syncDirectory(folder);
}

/** Makes the names in a directory survive a power cut. */
export async function syncDirectory(path: string): Promise<void> {
  await using handle = await open(path, 'r');
  await handle.sync();
}

async function writeDurably(path: string, content: Buffer): Promise<void> {
  await using file = await open(path, 'wx', 0o644);
  await file.writeFile(content);
  await file.sync();
}
