import { KilnError } from '../../../errors.ts';
import type { RepositorySource } from '../configuration.ts';
import type { RepositoryAccess } from './access.ts';
import { type DownloadContext, downloadFile } from './download.ts';
import { MAX_METALINK, MAX_MIRRORLIST } from './limits.ts';
import { Mirrors } from './mirrors.ts';

/** More mirrors than anybody tries. */
const MAX_MIRRORS = 500;

/** The places of a remote repository. */
export interface FoundMirrors {
  /** Folders' URLs, best first. */
  readonly mirrors: readonly string[];
  /** Digests of the allowed repomd.xml files, newest first; empty if there is no metalink. */
  readonly allowed: readonly string[];
}

/**
 * Asks the metalink or mirrorlist server, or takes the URLs of the configuration.
 * @throws KilnError E_DOWNLOAD, E_REPOSITORY_METADATA
 */
export async function findMirrors(
  repository: string,
  source: Exclude<RepositorySource, { kind: 'directory' }>,
  access: RepositoryAccess | undefined,
  context: DownloadContext,
): Promise<FoundMirrors> {
  if (source.kind === 'baseurl') return { mirrors: source.urls, allowed: [] };
  const item = {
    repository,
    mirrors: new Mirrors([source.url], undefined, access),
    location: '',
    item: source.kind,
    maxSize: source.kind === 'metalink' ? MAX_METALINK : MAX_MIRRORLIST,
  };
  const answer = await downloadFile(context, item, undefined, () => {});
  const content = answer?.content ?? Buffer.alloc(0);
  if (source.kind === 'mirrorlist')
    return { mirrors: parseMirrorlist(repository, content), allowed: [] };
  const { readMetalink } = await import('../metadata/parse-index.ts');
  const { mirrors, repomds } = await readMetalink(content, context.signal);
  return { mirrors: mirrors.slice(0, MAX_MIRRORS), allowed: repomds.map(({ digest }) => digest) };
}

/** The URL of the server that named a source's mirrors. */
export function namedBy(source: RepositorySource): string | undefined {
  return source.kind === 'metalink' || source.kind === 'mirrorlist' ? source.url : undefined;
}

/** One URL a line; everything else (comments, error pages) is passed over. */
function parseMirrorlist(repository: string, content: Buffer): string[] {
  const mirrors = content
    .toString('utf8')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => /^https?:\/\/\S+$/.test(line) && URL.canParse(line));
  if (mirrors.length > 0) return [...new Set(mirrors)].slice(0, MAX_MIRRORS);
  const [first = ''] = content.toString('utf8').split('\n');
  throw new KilnError(
    'E_REPOSITORY_METADATA',
    `repository ${repository}: the mirrorlist names no http or https mirror`,
    {
      details: { begins: first.slice(0, 200) },
      hint: 'see whether $releasever and $basearch exist in that distribution',
    },
  );
}
