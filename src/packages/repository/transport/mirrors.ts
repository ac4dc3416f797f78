import { setTimeout as sleep } from 'node:timers/promises';
import { counted } from '../../../counted.ts';
import { KilnError } from '../../../errors.ts';
import type { RepositoryAccess } from './access.ts';
import { TransferError } from './http.ts';
import { locationUrl, withoutCredentials } from './location.ts';
import { AddressRefused, mirrorsFor, type Reach, reachThrough } from './reach.ts';
import type { DownloadContext, TransferOptions } from './transfer.ts';

export interface DownloadItem {
  readonly repository: string;
  readonly mirrors: Mirrors;
  readonly location: string;
  readonly item: string;
  readonly maxSize: number;
}

const MAX_PAUSE = 30_000;
const MIRROR_FACTOR = 3;
/** How often a mirror that sent a broken file is asked for it again. */
const MAX_BROKEN = 2;

export class Mirrors {
  readonly bases: readonly string[];
  readonly namedBy: string | undefined;
  readonly access: RepositoryAccess | undefined;
  readonly #failures = new Map<string, number>();
  /** Those that kiln.yaml names. */
  readonly #configured = new Set<string>();
  #inForce: Mirrors | undefined;

  constructor(bases: readonly string[], namedBy: string | undefined, access?: RepositoryAccess) {
    this.bases = bases;
    this.namedBy = namedBy;
    this.access = access;
  }

  /** With the mirrors of kiln.yaml in place of the base URLs. Locks and caches keep the original URLs. */
  async inForce(): Promise<Mirrors> {
    if (this.#inForce !== undefined) return this.#inForce;
    const found = await Promise.all(
      this.bases.map(async (base) => [base, await mirrorsFor(base)] as const),
    );
    const bases = new Set(found.flatMap(([base, instead = [base]]) => instead));
    const made = new Mirrors([...bases], this.namedBy, this.access);
    for (const [, instead = []] of found) for (const each of instead) made.#configured.add(each);
    this.#inForce ??= made;
    return this.#inForce;
  }

  isConfigured(base: string): boolean {
    return this.#configured.has(base);
  }

  best(except: ReadonlySet<string>): string | undefined {
    const usable = this.bases.filter((base) => !except.has(base));
    return usable.sort((a, b) => this.failures(a) - this.failures(b))[0];
  }

  failures(base: string): number {
    return this.#failures.get(base) ?? 0;
  }

  failed(base: string): void {
    this.#failures.set(base, this.failures(base) + 1);
  }
}

/**
 * Calls `attempt` with one mirror after the other until it succeeds. A mirror without the file is not asked
 * again; a mirror with a passing problem is, after a pause.
 * @throws KilnError E_DOWNLOAD with `details.attempts`; what `attempt` throws if it is no TransferError.
 */
export async function tryMirrors<Result>(
  context: DownloadContext,
  item: DownloadItem,
  attempt: (url: string, reach: Reach) => Promise<Result>,
): Promise<Result> {
  let reach: Reach | undefined;
  const { transfer, signal } = context;
  const { location, repository } = item;
  const mirrors = await item.mirrors.inForce();
  const hopeless = new Set<string>();
  const lastRound = new Map<string, number>();
  const attempts: { url: string; reason: string }[] = [];
  let hint =
    'see whether the URL is right and the server up; what is already cached can be used offline';
  const most = transfer.attempts * MIRROR_FACTOR;
  while (attempts.length < most) {
    const base = mirrors.best(hopeless);
    if (base === undefined) break;
    if (!mirrors.isConfigured(base)) reach ??= await reachOf(context.reach, mirrors.namedBy);
    const before = lastRound.get(base) ?? 0;
    if (before > 0) await pause(context, before, attempts.length);
    const url = location === '' ? base : locationUrl(base, location);
    try {
      return await attempt(url, mirrors.isConfigured(base) ? 'named' : (reach ?? 'public'));
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof TransferError)) throw error;
      if (error.cause instanceof AddressRefused) hint = refusalHint(context.reach);
      if (error.unauthorized) hint = loginHint(mirrors.access !== undefined);
      if (error.unreached) hint = UNREACHED_HINT;
      attempts.push({ url: withoutCredentials(url), reason: error.message });
      mirrors.failed(base);
      lastRound.set(base, before + 1);
      if (before + 1 >= patience(error, transfer)) hopeless.add(base);
      if (attempts.length < most && mirrors.best(hopeless) !== undefined) {
        const reason = `${new URL(url).host}: ${error.message}`;
        context.onProgress?.({ kind: 'retry', repository, item: item.item, reason });
      }
      if (error.retryAfter !== undefined && mirrors.bases.length === 1) {
        await sleep(Math.min(error.retryAfter, MAX_PAUSE), undefined, { signal });
      }
    }
  }
  throw downloadError(item, attempts, hint);
}

const UNREACHED_HINT =
  'nothing there was reached: see this host’s network and name server; where it needs a proxy or has mirrors nearer, name them in https_proxy or kiln.yaml; what is already cached can be used offline';

function loginHint(hasAccess: boolean): string {
  return hasAccess
    ? 'the server does not take this login: see whether it is right, and is for these files'
    : 'the server wants a login: name username and password_file, token_file or sslclientcert in the recipe; a lock alone has none';
}

function refusalHint(reach: Reach): string {
  return reach === 'public'
    ? 'a recipe gets its sources from the internet; if you trust it, --allow-host lets it reach this host and its network'
    : 'a server of the internet sent kiln to this host or its network: name that URL in the configuration if it is right';
}

async function reachOf(reach: Reach, namedBy: string | undefined): Promise<Reach> {
  if (reach === 'public' || namedBy === undefined) return reach;
  return await reachThrough(new URL(namedBy), undefined);
}

function patience(error: TransferError, transfer: TransferOptions): number {
  if (error.transient) return transfer.attempts;
  return error instanceof BrokenFileError ? Math.min(MAX_BROKEN, transfer.attempts) : 1;
}

export class BrokenFileError extends TransferError {
  constructor(message: string) {
    super(message, { transient: false });
  }
}

async function pause(
  { transfer, signal }: DownloadContext,
  times: number,
  tries: number,
): Promise<void> {
  if (tries === 0) return;
  const longest = Math.min(transfer.backoff * 2 ** (times - 1), MAX_PAUSE);
  // Half of the pause is random, so that many kilns do not return at the same time.
  const milliseconds = longest * (0.5 + Math.random() / 2);
  await sleep(milliseconds, undefined, { signal }).catch(() => signal?.throwIfAborted());
}

function downloadError(
  { repository, item }: DownloadItem,
  attempts: readonly { url: string; reason: string }[],
  hint: string,
): KilnError {
  const last = attempts.at(-1);
  const tries = [...Map.groupBy(attempts, ({ url, reason }) => `  ${url}: ${reason}`)]
    .map(([text, { length }]) => (length === 1 ? text : `${text} (${length} times)`))
    .join('\n');
  return new KilnError(
    'E_DOWNLOAD',
    `repository ${repository}: ${item} cannot be downloaded` +
      (last === undefined
        ? ': there is no mirror'
        : ` (${counted(attempts.length, 'try', 'tries')})\n${tries}`),
    { hint, details: { repository, item, attempts } },
  );
}
