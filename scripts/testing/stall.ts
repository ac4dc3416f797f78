import { readdirSync, readFileSync } from 'node:fs';

/** A process below another. */
interface Descendant {
  readonly pid: number;
  readonly depth: number;
}

/** Calls `stalled` once {@link alive} has not been called for `limit` milliseconds. */
export class StallWatch implements Disposable {
  readonly #limit: number;
  readonly #timer: NodeJS.Timeout;
  #last = performance.now();

  constructor(limit: number, stalled: () => void) {
    this.#limit = limit;
    this.#timer = setInterval(
      () => {
        if (performance.now() - this.#last < this.#limit) return;
        clearInterval(this.#timer);
        stalled();
      },
      Math.min(1000, limit / 4),
    );
  }

  alive(): void {
    this.#last = performance.now();
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

/** The processes below `root`, those before their children, a line each: what they are and wait for. */
export function describeDescendants(root: number): string[] {
  return descendants(root).map(({ pid, depth }) => {
    const [name = '', state = ''] = /^\d+ \((.*)\) (\S)/.exec(read(pid, 'stat'))?.slice(1) ?? [];
    const command = read(pid, 'cmdline').replaceAll('\0', ' ').trim();
    const waits = read(pid, 'wchan');
    return `${'  '.repeat(depth)}${pid} ${state} ${waits || '-'} ${command.slice(0, 160) || name}`;
  });
}

/** Ends `root` and every process below it, at once. */
export function killTree(root: number): void {
  for (const pid of [root, ...descendants(root).map((one) => one.pid)]) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended meanwhile.
    }
  }
}

function descendants(root: number): Descendant[] {
  const children = Map.groupBy(
    readdirSync('/proc').filter((name) => /^\d+$/.test(name)),
    (pid) => Number(/^\d+ \(.*\) \S (\d+)/.exec(read(Number(pid), 'stat'))?.[1] ?? -1),
  );
  const below = (parent: number, depth: number): Descendant[] =>
    (children.get(parent) ?? []).flatMap((name) => {
      const pid = Number(name);
      return [{ pid, depth }, ...below(pid, depth + 1)];
    });
  return below(root, 0);
}

/** The text of a process's file in /proc; empty where the process is gone. */
function read(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}
