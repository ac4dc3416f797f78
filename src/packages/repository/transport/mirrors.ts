import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../../errors.ts';
import type { RepositoryAccess } from './access.ts';
import { TransferError } from './http.ts';
import { locationUrl } from './location.ts';
import { AddressRefused, type Reach, reachThrough } from './reach.ts';
import type { TransferOptions } from './transfer-options.ts';

const MAX_PAUSE = 30_000;
/** Attempts with all mirrors together, as a multiple of those with one. */
const MIRROR_FACTOR = 3;
/** How often a mirror that sent a broken file is asked for it again. */
const MAX_BROKEN = 2;

/** The mirrors of a repository, with a memory of failures. */
export class Mirrors {
  /** Folders' URLs, best first. */
  readonly bases: readonly string[];
  /** The URL of the server that named them; undefined if the configuration did. */
  readonly namedBy: string | undefined;
  /** How to log in there. */
  readonly access: RepositoryAccess | undefined;
  readonly #failures = new Map<string, number>();

  constructor(bases: readonly string[], namedBy: string | undefined, access?: RepositoryAccess) {
    this.bases = bases;
    this.namedBy = namedBy;
    this.access = access;
  }

  /** The best base not in `except`: fewest failures first, then in the given order. */
  best(except: ReadonlySet<string>): string | undefined {
    let best: string | undefined;
    for (const base of this.bases) {
      if (except.has(base)) continue;
      if (best === undefined || this.failures(base) < this.failures(best)) best = base;
    }
    return best;
  }

  failures(base: string): number {
    return this.#failures.get(base) ?? 0;
  }

  failed(base: string): void {
    this.#failures.set(base, this.failures(base) + 1);
  }
}

export interface MirrorRequest {
  readonly mirrors: Mirrors;
  /** Below each mirror's folder; '' for the base itself. */
  readonly location: string;
  readonly repository: string;
  /** What messages call the file. */
  readonly item: string;
  readonly transfer: TransferOptions;
  /** How far the URLs may lead that the configuration names. */
  readonly reach: Reach;
  readonly signal: AbortSignal | undefined;
  readonly onRetry: (reason: string) => void;
}

/**
 * Calls `attempt` with one mirror after the other until it succeeds. A mirror without the file is not asked
 * again; a mirror with a passing problem is, after a pause.
 * @throws KilnError E_DOWNLOAD with every try in `details.attempts`; what `attempt` throws if it is
 * no TransferError.
 */
export async function tryMirrors<Result>(
  request: MirrorRequest,
  attempt: (url: string, reach: Reach) => Promise<Result>,
): Promise<Result> {
  let reach: Reach | undefined;
  const { mirrors, transfer } = request;
  const hopeless = new Set<string>();
  const lastRound = new Map<string, number>();
  const attempts: { url: string; reason: string }[] = [];
  let hint =
    'see whether the URL is right and the server up; what is already cached can be used offline';
  while (attempts.length < transfer.attempts * MIRROR_FACTOR) {
    const base = mirrors.best(hopeless);
    if (base === undefined) break;
    reach ??= await reachOf(request);
    const before = lastRound.get(base) ?? 0;
    if (before > 0) await pause(request, before, attempts.length);
    const url = request.location === '' ? base : locationUrl(base, request.location);
    try {
      return await attempt(url, reach);
    } catch (error) {
      request.signal?.throwIfAborted();
      if (!(error instanceof TransferError)) throw error;
      if (error.cause instanceof AddressRefused) hint = refusalHint(request);
      if (error.unauthorized) hint = loginHint(mirrors.access !== undefined);
      attempts.push({ url: withoutCredentials(url), reason: error.message });
      request.onRetry(`${new URL(url).host}: ${error.message}`);
      mirrors.failed(base);
      lastRound.set(base, before + 1);
      if (before + 1 >= patience(error, transfer)) hopeless.add(base);
      if (error.retryAfter !== undefined && mirrors.bases.length === 1) {
        await sleep(Math.min(error.retryAfter, MAX_PAUSE), undefined, { signal: request.signal });
      }
    }
  }
  throw downloadError(request, attempts, hint);
}

function loginHint(hasAccess: boolean): string {
  return hasAccess
    ? 'the server does not take this login: see whether it is right, and is for these files'
    : 'the server wants a login: name username and password_file, token_file or sslclientcert in the recipe; a lock alone has none';
}

function refusalHint({ reach }: MirrorRequest): string {
  return reach === 'public'
    ? 'a recipe gets its sources from the internet; if you trust it, --allow-host lets it reach this host and its network'
    : 'a server of the internet sent kiln to this host or its network: name that URL in the configuration if it is right';
}

async function reachOf({ mirrors: { namedBy }, reach }: MirrorRequest): Promise<Reach> {
  if (reach === 'public' || namedBy === undefined) return reach;
  return await reachThrough(new URL(namedBy), undefined);
}

/** A URL for messages and files, which are read by many. */
export function withoutCredentials(url: string): string {
  const parsed = new URL(url);
  parsed.username = '';
  parsed.password = '';
  return parsed.href;
}

/** After how many failures of this kind a mirror is not asked for the file again. */
function patience(error: TransferError, transfer: TransferOptions): number {
  if (error.transient) return transfer.attempts;
  return error instanceof BrokenFileError ? Math.min(MAX_BROKEN, transfer.attempts) : 1;
}

/** A complete file that is not the requested one. */
export class BrokenFileError extends TransferError {
  constructor(message: string) {
    super(message, { transient: false });
  }
}

async function pause(request: MirrorRequest, times: number, tries: number): Promise<void> {
  if (tries === 0) return;
  const longest = Math.min(request.transfer.backoff * 2 ** (times - 1), MAX_PAUSE);
  // Half of the pause is random, so that many kilns do not return at the same time.
  const milliseconds = longest * (0.5 + Math.random() / 2);
  await sleep(milliseconds, undefined, { signal: request.signal }).catch(() =>
    request.signal?.throwIfAborted(),
  );
}

function downloadError(
  request: MirrorRequest,
  attempts: readonly { url: string; reason: string }[],
  hint: string,
): KilnError {
  const { repository, item } = request;
  const last = attempts.at(-1);
  const tries = [...counted(attempts.map(({ url, reason }) => `${url}: ${reason}`))]
    .map(([text, times]) => (times === 1 ? `  ${text}` : `  ${text} (${times} times)`))
    .join('\n');
  return new KilnError(
    'E_DOWNLOAD',
    `repository ${repository}: ${item} cannot be downloaded` +
      (last === undefined ? ': there is no mirror' : ` (${attempts.length} tries)\n${tries}`),
    {
      hint,
      details: { repository, item, attempts },
    },
  );
}

function counted(texts: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
  return counts;
}
