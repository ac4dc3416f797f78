/**
 * Paths that the kernel refused to a command. It tells of them nobody but the command, so strace(1) listens, from
 * outside of the sandbox: none of the walls changes. It is attached to the init, whose children it follows.
 */

import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { hasErrno } from '../../host/calls/libc.ts';
import { startProgram } from '../../host/process/child-process.ts';
import { childrenOf } from '../../host/process/process.ts';
import { awaitedLater } from '../../promise.ts';
import type { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import { can, kindOf } from '../../sandbox/policy/ground-kinds.ts';

export interface RefusedPath {
  /** Absolute, where strace knew the folder that it begins in. */
  readonly path: string;
  readonly syscall: string;
  /** EACCES, EPERM or EROFS. */
  readonly error: string;
  readonly count: number;
}

export interface RefusedPaths {
  /** Undefined where nobody listened. */
  readonly paths: readonly RefusedPath[] | undefined;
  /** Refusals of further paths. */
  readonly more: number;
  /** Why nobody listened. */
  readonly reason?: string;
}

const PATHS_MAX = 100;

/** A line has two paths at most, of 4,096 bytes in four characters each, and their folders. */
const LINE_MAX = 128 << 10;

/** Processes whose folder is remembered. */
const FOLDERS_MAX = 1000;

/**
 * Strings are written as `\x2f…` (-xx), so nothing in a name can look like a line of strace’s. A line that is not
 * to be torn by another process needs a set of statuses.
 */
const WORDS = [
  ...['-f', '-xx', '-y', '-s', '0', '-e', 'signal=none'],
  ...['-e', 'status=successful,failed', '-e', 'trace=%file,fchdir'],
];

const LINE = /^(?:\[pid +(\d+)\] )?(\w+)\((.*)\) += (-?\d+)(?: (EACCES|EPERM|EROFS)\b)?/;
const NAME = /(?:(AT_FDCWD|\d+)(?:<((?:\\x[0-9a-f]{2})*)>)?, )?"((?:\\x[0-9a-f]{2})*)"/g;

/** Refused to whom lacks a capability, whatever the path. */
const ABOUT_NO_PATH =
  /^(?:u?mount\w*|pivot_root|chroot|swapo\w+|acct|quotactl|open_tree\w*|fanotify_mark)$/;

const bytesOf = (hex: string) => Buffer.from(hex.replaceAll('\\x', ''), 'hex').toString();

/** What strace says of one sandbox; the bytes of names are the command’s. */
export class PathTrace {
  readonly #found = new Map<string, RefusedPath>();
  readonly #folders = new Map<string, string>();
  #begun = false;
  #rest = '';
  #more = 0;

  push(chunk: string): void {
    const lines = (this.#rest + chunk).split('\n');
    this.#rest = (lines.pop() ?? '').slice(0, LINE_MAX);
    for (const line of lines) if (line.length < LINE_MAX) this.#take(line);
  }

  get refused(): RefusedPaths {
    return { paths: [...this.#found.values()], more: this.#more };
  }

  #take(line: string): void {
    const [, pid = '', syscall = '', words = '', status, error] = LINE.exec(line) ?? [];
    // Before that the init tries its walls.
    if (syscall.startsWith('execve') && status === '0') this.#begun = true;
    if (syscall.endsWith('chdir')) this.#folders.delete(pid);
    if (!this.#begun || (error === undefined && !words.startsWith('AT_FDCWD'))) return;
    const names = [...words.matchAll(NAME)].map(([, start, folder, name = '']) => {
      if (start === 'AT_FDCWD' && folder !== undefined) this.#enter(pid, bytesOf(folder));
      const from = start === undefined ? this.#folders.get(pid) : folder && bytesOf(folder);
      const path = bytesOf(name);
      return path.startsWith('/') || from === undefined ? path : join(from, path);
    });
    if (error === undefined || ABOUT_NO_PATH.test(syscall)) return;
    const kept = /^(?:rename|link)/.test(syscall)
      ? names
      : syscall.startsWith('symlink')
        ? names.slice(-1)
        : names.slice(0, 1);
    for (const path of kept) this.#count({ path, syscall, error, count: 1 });
  }

  #enter(pid: string, folder: string): void {
    if (this.#folders.size >= FOLDERS_MAX) this.#folders.clear();
    this.#folders.set(pid, folder);
  }

  #count(one: RefusedPath): void {
    const key = JSON.stringify([one.path, one.syscall, one.error]);
    const known = this.#found.get(key);
    if (known === undefined && this.#found.size >= PATHS_MAX) this.#more++;
    else this.#found.set(key, { ...one, count: (known?.count ?? 0) + 1 });
  }
}

export class PathWatch implements Disposable {
  readonly #strace: ChildProcess | undefined;
  readonly #trace = new PathTrace();
  readonly #reason: string | undefined;

  private constructor(strace: ChildProcess | undefined, reason?: string) {
    this.#strace = strace;
    this.#reason = reason;
  }

  /** Listens from the next command on. Never rejects: the command runs, whether its paths are known or not. */
  static async begin({ initPid, ground }: PlannedSandbox): Promise<PathWatch> {
    if (!can(kindOf(ground), 'refusedPaths'))
      return new PathWatch(undefined, 'a machine’s own kernel refuses them');
    const places = childrenOf(initPid).flatMap((pid) => ['-p', `${pid}`]);
    const strace = startProgram('strace', [...WORDS, ...places], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const watch = new PathWatch(strace);
    const { stderr } = strace;
    stderr?.setEncoding('latin1').on('data', (chunk: string) => watch.#trace.push(chunk));
    try {
      // It says that it has attached, or why not.
      const [said] = await Promise.race([
        once(stderr ?? strace, 'data'),
        once(strace, 'exit').then(() => ['strace has ended']),
      ]);
      if (!/^strace: Process \d+ attached/.test(said)) {
        strace.kill();
        return new PathWatch(undefined, String(said).split('\n')[0]);
      }
    } catch (error) {
      const reason = hasErrno(error, 'ENOENT')
        ? 'this host lacks strace (its package has the same name)'
        : String(error);
      return new PathWatch(undefined, reason);
    }
    strace.on('error', () => undefined);
    return watch;
  }

  /** What was refused since, when the commands have ended. */
  async end(): Promise<RefusedPaths> {
    const strace = this.#strace;
    if (strace === undefined) return { paths: undefined, more: 0, ...this.#why() };
    if (strace.exitCode === null && strace.signalCode === null) {
      const closed = awaitedLater(once(strace, 'close'));
      // It lets go of all, and ends.
      strace.kill('SIGTERM');
      await closed;
    }
    return this.#trace.refused;
  }

  #why() {
    return this.#reason === undefined ? {} : { reason: this.#reason };
  }

  [Symbol.dispose](): void {
    this.#strace?.kill('SIGKILL');
  }
}
