/**
 * The three XML elements that describe a package in repository metadata. Source of the format: createrepo_c's
 * output, and libsolv's repo_rpmmd.c, which reads it.
 */
import { parseEvr, Sense } from '../../rpm/dependency.ts';
import type { RpmDependency, RpmDependencyKind, RpmFile, RpmPackage } from '../../rpm/package.ts';

/** Where a package lies, and the digest that names it. */
export interface PlacedPackage {
  readonly package: RpmPackage;
  /** sha256 of the file, hex. */
  readonly sha256: string;
  /** Relative to the repository's folder. */
  readonly location: string;
}

/** One package's part of primary.xml, filelists.xml and other.xml. */
export interface PackageElements {
  readonly primary: string;
  readonly filelists: string;
  readonly other: string;
}

/** The elements that createrepo_c writes for a package; times are the package's own, not the file's. */
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
    ...rpm.files.filter(({ path }) => isPrimary(path)).map(fileElement),
    '</format></package>',
  ].join('');
}

/** In createrepo_c's order. */
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
  const own = new Set(rpm.files.map(({ path }) => path).filter(isPrimary));
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

/** Paths that dependencies often name: they are in primary.xml, too. */
function isPrimary(path: string): boolean {
  return path.startsWith('/etc/') || path.includes('bin/') || path === '/usr/lib/sendmail';
}

function fileElement({ path, type, flags }: RpmFile): string {
  if (type === 'directory') return element('file', { type: 'dir' }, path);
  return element('file', flags.includes('ghost') ? { type: 'ghost' } : {}, path);
}

/** An XML element; without text an empty one. */
export function element(
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
