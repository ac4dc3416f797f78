/**
 * Which packages a text means, as dnf's `Subject` finds them: forms of a NEVRA from the most special to the least,
 * then what packages provide, then files. Source: libdnf's nevra.cpp and query.cpp (filterSubject).
 */
import { parseEvr } from '../rpm/dependency.ts';
import type { Id } from './libsolv/libsolv.ts';
import type { Package, Packages } from './packages.ts';

/** selection.h */
const PROVIDES = 1 << 1;
const FILELIST = 1 << 2;
const REL = 1 << 5;
const GLOB = 1 << 9;
const WITH_DISABLED = 1 << 16;

export interface Match {
  /**
   * `name`: a name and nothing more. `nevra`: a name with a version or an architecture. `glob`: a glob
   * of whole NEVRAs. `provides`, `file`: what packages provide or hold.
   */
  readonly kind: 'name' | 'nevra' | 'glob' | 'provides' | 'file';
  readonly packages: readonly Package[];
  readonly arch?: string | undefined;
}

const NAME = '(?<name>[^:(/=<> ]+)';
const EPOCH = '(?:(?<epoch>[0-9]+):)?';
const PART = '[^-:(/=<> ]+';
const ARCH = '\\.(?<arch>[^-:.(/=<> ]+)';

const FORMS = [
  `${NAME}-${EPOCH}(?<version>${PART})-(?<release>${PART})${ARCH}`,
  `${NAME}${ARCH}`,
  NAME,
  `${NAME}-${EPOCH}(?<version>${PART})-(?<release>${PART})`,
  `${NAME}-${EPOCH}(?<version>${PART})`,
].map((form) => new RegExp(`^${form}$`, 's'));

export function isGlob(text: string): boolean {
  return /[*?[]/.test(text);
}

export function isFilePattern(text: string): boolean {
  return text.startsWith('/') || text.startsWith('*/');
}

export function matchNames(
  packages: Packages,
  all: readonly Package[],
  text: string,
): Match | undefined {
  for (const form of FORMS) {
    const parts = form.exec(text)?.groups;
    if (parts === undefined) continue;
    const found = all.filter(testOf(packages, parts));
    if (found.length === 0) continue;
    const plain = parts.version === undefined && parts.arch === undefined;
    return { kind: plain ? 'name' : 'nevra', packages: found, arch: parts.arch };
  }
  if (!isGlob(text) || text.includes('(')) return undefined;
  const expression = globExpression(text);
  const withEpoch = text.includes(':');
  const found = all.filter((candidate) => {
    const { epoch, version, release } = parseEvr(packages.text(candidate.evr));
    const evr = `${withEpoch ? `${epoch ?? 0}:` : ''}${version}-${release}`;
    const nevra = `${packages.text(candidate.name)}-${evr}.${packages.text(candidate.arch)}`;
    return expression.test(nevra);
  });
  return found.length === 0 ? undefined : { kind: 'glob', packages: found };
}

export function matchAll(
  packages: Packages,
  all: readonly Package[],
  text: string,
): Match | undefined {
  const named = matchNames(packages, all, text);
  if (named !== undefined) return named;
  const glob = isGlob(text) ? GLOB : 0;
  const steps: ['provides' | 'file', number][] = [['provides', PROVIDES | REL | glob]];
  if (isFilePattern(text)) steps.push(['file', FILELIST | glob]);
  for (const [kind, flags] of steps) {
    const ids = new Set<Id>(packages.pool.select(text, flags | WITH_DISABLED));
    const found = all.filter(({ id }) => ids.has(id));
    if (found.length > 0) return { kind, packages: found };
  }
  return undefined;
}

type Parts = Readonly<Record<string, string | undefined>>;

function testOf(packages: Packages, parts: Parts): (candidate: Package) => boolean {
  const { name, epoch, version, release, arch } = parts;
  const isName = idTest(packages, name);
  const isArch = idTest(packages, arch);
  const isVersion = textTest(version);
  const isRelease = textTest(release);
  return (candidate) => {
    if (!isName(candidate.name) || !isArch(candidate.arch)) return false;
    if (epoch === undefined && version === undefined) return true;
    const evr = parseEvr(packages.text(candidate.evr));
    if (epoch !== undefined && Number(epoch) !== Number(evr.epoch)) return false;
    return isVersion(evr.version) && isRelease(evr.release);
  };
}

function idTest(packages: Packages, pattern: string | undefined): (id: Id) => boolean {
  const test = textTest(pattern);
  const known = new Map<Id, boolean>();
  return (id) => {
    const before = known.get(id);
    if (before !== undefined) return before;
    const answer = test(packages.text(id));
    known.set(id, answer);
    return answer;
  };
}

function textTest(pattern: string | undefined): (text: string) => boolean {
  if (pattern === undefined || pattern === '*') return () => true;
  if (!isGlob(pattern)) return (text) => text === pattern;
  const expression = globExpression(pattern);
  return (text) => expression.test(text);
}

export function globExpression(glob: string): RegExp {
  const source = glob.replace(/\[(!|\^)?([^\]]+)\]|[*?]|[^*?[]+|\[/g, (part, not, set) => {
    if (set !== undefined) return `[${not ? '^' : ''}${membersOf(set)}]`;
    if (part === '*') return '.*';
    if (part === '?') return '.';
    return part.replace(/[\\^$.|+(){}]/g, '\\$&').replaceAll('[', '\\[');
  });
  return new RegExp(`^${source}$`, 's');
}

/** What stands between brackets, for JavaScript's: a range that ends before it begins has no member, as for fnmatch(3). */
function membersOf(set: string): string {
  const plain = (character: string) => character.replace(/[\\\]^-]/, '\\$&');
  return set.replace(/(.)-(.)|./gs, (part: string, from?: string, to?: string) => {
    if (from === undefined || to === undefined) return plain(part);
    return from > to ? '' : `${plain(from)}-${plain(to)}`;
  });
}
