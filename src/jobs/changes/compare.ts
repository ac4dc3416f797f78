/**
 * What two stacks of layers show differently, from the layers alone: only folders in which one stack has a layer that the
 * other has not are read, so it takes time with what has changed.
 *
 * The layers are hostile, so this is work for a confined child (compare-task.ts), to which owners are the same in all.
 */
import { fstatSync } from 'node:fs';
import { Budget } from '../../artifacts/budget.ts';
import { type ByteString, fromBytes, joinBytes } from '../../artifacts/byte-string.ts';
import { listEntries } from '../../artifacts/source.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { readlinkat } from '../../host/files/at.ts';
import { look, reopen, type Shown, type Stack } from '../../image/tree/merged.ts';
import { about, type Change, type Changes, isSameContent, isWithin, kindOf } from './entry.ts';

export interface CompareRequest {
  readonly now: Stack;
  readonly before: Stack;
  /** Only these, and what is below; all if there are none. */
  readonly only: readonly ByteString[];
  /** Mount points, which the init has made. */
  readonly mounts: readonly ByteString[];
  readonly most: number;
  readonly signal?: AbortSignal | undefined;
}

/** What has changed from `before` to `now`. @throws KilnError E_ARTIFACT_LIMIT; the signal's reason */
export async function compareStacks(request: CompareRequest): Promise<Changes> {
  const comparing = new Comparing(request);
  const truncated = !(await comparing.run());
  return { changes: comparing.changes.sort((a, b) => (a.path < b.path ? -1 : 1)), truncated };
}

class TooMany extends Error {}

class Comparing {
  readonly changes: Change[] = [];
  readonly #request: CompareRequest;
  readonly #budget: Budget;

  constructor(request: CompareRequest) {
    this.#request = request;
    this.#budget = new Budget({}, request.signal);
  }

  /** False if there is more. */
  async run(): Promise<boolean> {
    try {
      await this.#visit(this.#request.now, this.#request.before, '', 1);
      return true;
    } catch (error) {
      if (error instanceof TooMany) return false;
      throw error;
    }
  }

  async #visit(now: Stack, before: Stack, path: ByteString, depth: number): Promise<void> {
    this.#budget.checkDepth(depth);
    const names = new Set<ByteString>();
    for (const fd of differing(now, before)) {
      const listed = unlessErrno(['ENOENT'], () => listEntries(fd, this.#budget));
      for (const { name } of listed ?? []) names.add(name);
    }
    for (const name of [...names].sort()) {
      if (this.#budget.due) await this.#budget.breathe();
      const inner = joinBytes(path, name);
      if (this.#leadsTo(inner)) await this.#entry(now, before, name, inner, depth);
    }
  }

  async #entry(
    now: Stack,
    before: Stack,
    name: ByteString,
    path: ByteString,
    depth: number,
  ): Promise<void> {
    using open = new DisposableStack();
    const is = look(now, name, open);
    const was = look(before, name, open);
    if (is === undefined) {
      if (was !== undefined) this.#add('removed', path, was);
      return;
    }
    const isEmptyFile = is.stats.isFile() && is.stats.size === 0n;
    if (was === undefined && isEmptyFile && this.#request.mounts.includes(path)) return;
    const at = this.changes.length;
    if (was === undefined) this.#add('added', path, is);
    else if (this.#differs(is, was)) this.#add('changed', path, is, was);
    if (!is.stats.isDirectory()) return;
    await this.#visit(is.parts, was?.parts ?? [], path, depth + 1);
    const isMount = this.#request.mounts.some((each) => isWithin(each, path));
    if (was === undefined && isMount && this.changes.length === at + 1) this.changes.pop();
  }

  #differs(is: Shown, was: Shown): boolean {
    if (isSameInode(is, was)) return false;
    const kind = kindOf(is.stats);
    if (kind !== kindOf(was.stats)) return true;
    if (kind === 'link') return !readlinkat(is.fd, '').equals(readlinkat(was.fd, ''));
    if (ownOf(is) !== ownOf(was)) return true;
    if (kind !== 'file') return kind !== 'folder';
    if (is.stats.size !== was.stats.size) return true;
    using mine = reopen(is);
    using theirs = reopen(was);
    if (mine === undefined || theirs === undefined) return true;
    return !isSameContent(mine.fd, theirs.fd, Number(is.stats.size), this.#budget);
  }

  #add(change: Change['change'], path: ByteString, shown: Shown, was?: Shown): void {
    const { only, most } = this.#request;
    if (only.length > 0 && !only.some((each) => isWithin(path, each))) return;
    if (this.changes.length >= most) throw new TooMany();
    this.#budget.spend('paths', path.length);
    const kind = kindOf(shown.stats);
    const before = was && kindOf(was.stats);
    this.changes.push({
      ...{ path, change, kind, ...about(shown.stats) },
      ...(kind === 'link' ? { target: fromBytes(readlinkat(shown.fd, '')) } : {}),
      ...(before === undefined || before === kind ? {} : { was: before }),
      ...{ isProtected: false, isCopy: false, isAbove: false },
    });
  }

  #leadsTo(path: ByteString): boolean {
    const { only } = this.#request;
    return only.length === 0 || only.some((each) => isWithin(path, each) || isWithin(each, path));
  }
}

/** Those that only one of two stacks has. What both have at the bottom shows the same in both. */
function differing(now: Stack, before: Stack): number[] {
  const [mine, theirs] = [now.map(identity), before.map(identity)];
  let common = 0;
  while (common < mine.length && mine.at(-1 - common) === theirs.at(-1 - common)) common++;
  return [...now.slice(0, now.length - common), ...before.slice(0, before.length - common)];
}

function identity(fd: number): string {
  const { dev, ino } = fstatSync(fd, { bigint: true });
  return `${dev}:${ino}`;
}

function isSameInode(a: Shown, b: Shown): boolean {
  return a.stats.dev === b.stats.dev && a.stats.ino === b.stats.ino;
}

function ownOf({ stats: { mode, uid, gid } }: Shown): string {
  return [mode, uid, gid].join();
}
