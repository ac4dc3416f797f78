/** What kiln is at: lines that change in place on a terminal, drawn by log-update, and plain lines elsewhere. */
import { styleText } from 'node:util';
import type { createLogUpdate } from 'log-update';
import type { Engine } from '../../engine.ts';
import { listeningTo, WorkText } from '../../host/process/work.ts';
import { pickImage } from '../../image/open.ts';
import { describeProgress, type ImageProgress, progressCounts } from '../../image/progress.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import type { Caller } from '../caller/caller.ts';
import type { TextOutput } from './print.ts';
import { aligned } from './table.ts';

/** The pause between two updates on a terminal, and in a log, milliseconds. */
const TERMINAL_EVERY = 250;
const LOG_EVERY = 5000;

/** The cells of a row, and how it looks where the terminal has colours. */
export interface LiveRow {
  readonly cells: readonly string[];
  readonly style?: 'red' | 'green' | 'bold' | 'dim';
}

/** Whether lines can change in place. */
export function isLive(caller: Caller): boolean {
  return caller.stderr.isTTY && caller.variable('TERM') !== 'dumb';
}

/** Whether kiln's own words have colours: https://no-color.org */
export function hasColours(to: TextOutput, caller: Caller): boolean {
  return to.isTTY && caller.variable('TERM') !== 'dumb' && !caller.variable('NO_COLOR');
}

export class LiveTable implements Disposable {
  readonly #to: TextOutput;
  readonly #hasColours: boolean;
  readonly #rows: () => readonly LiveRow[];
  readonly #timer: NodeJS.Timeout;
  #render: ReturnType<typeof createLogUpdate> | undefined;
  #isOver = false;

  /** @param rows what is to be seen now: few enough for the height of the terminal */
  constructor(caller: Caller, rows: () => readonly LiveRow[]) {
    const to = caller.stderr;
    this.#to = to;
    this.#hasColours = hasColours(to, caller);
    this.#rows = rows;
    this.#timer = setInterval(() => this.#draw(), TERMINAL_EVERY);
    this.#timer.unref();
    // Without it there are no such lines, and all else is printed.
    this.#load().catch(() => undefined);
  }

  /** Late, because few callers have a terminal. */
  async #load(): Promise<void> {
    const { createLogUpdate } = await import('log-update');
    const to = this.#to;
    const stream = {
      isTTY: true,
      get columns() {
        return to.columns;
      },
      write: (text: string) => to.write(text),
    };
    this.#render = createLogUpdate(stream as NodeJS.WriteStream, {
      showCursor: true,
      // The rows fit; it needs no terminal's height of its own.
      defaultHeight: Number.MAX_SAFE_INTEGER,
    });
    this.#draw();
  }

  #draw(): void {
    if (this.#isOver || this.#render === undefined) return;
    const rows = this.#rows();
    if (rows.length > 0) this.#render(this.#lines(rows).join('\n'));
    else this.#render.clear();
  }

  #lines(rows: readonly LiveRow[]): string[] {
    return aligned(rows.map(({ cells }) => cells)).map((line, at) => {
      const shown = line.slice(0, this.#to.columns - 1);
      const style = rows[at]?.style;
      if (style === undefined || !this.#hasColours) return shown;
      return styleText(style, shown, { validateStream: false });
    });
  }

  /** For text that stays: it stands above the lines. */
  above(write: () => void): void {
    this.#render?.clear();
    write();
    this.#draw();
  }

  [Symbol.dispose](): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearInterval(this.#timer);
    this.#render?.clear();
  }
}

/** @param text what goes on; undefined while there is nothing to say */
export function watchProgress(caller: Caller, text: () => string | undefined): Disposable {
  if (isLive(caller) && !caller.isQuiet) {
    return new LiveTable(caller, () => {
      const now = text();
      return now === undefined ? [] : [{ cells: [`kiln: ${now}`] }];
    });
  }
  const tell = () => {
    const now = text();
    if (now !== undefined) caller.stderr.say(`kiln: ${now}\n`);
  };
  const timer = caller.isQuiet ? undefined : setInterval(tell, LOG_EVERY);
  timer?.unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/** What takes less is not told of on a terminal, ms. */
const SHORT = 1000;

/** Tells what `act` is at, as far as it says so: see work.ts. It must print nothing itself. */
export async function withWork<Result>(
  caller: Caller,
  act: () => Promise<Result>,
): Promise<Result> {
  const work = new WorkText();
  const begun = performance.now();
  using _ = watchProgress(caller, () =>
    performance.now() - begun < SHORT ? undefined : work.text,
  );
  return await listeningTo(work, act);
}

/** What is being done, with counts where there are any. */
export function progressText(progress: ImageProgress): string {
  const { done = 0, total } = progressCounts(progress);
  const text = describeProgress(progress);
  if (total === undefined) return text;
  const isDownload = progress.kind === 'download';
  return `${text}: ${isDownload ? `${Math.floor((100 * done) / total)} %` : `${done} of ${total}`}`;
}

/** What is told by a line of its own that stays. */
const STAYS: ReadonlySet<ImageProgress['kind']> = new Set(['make', 'rename', 'retry']);

interface Stage {
  text: string;
  readonly began: number;
  seen: number;
}

/** A table of the stages on a terminal, a line for each elsewhere. It can be reported to again after its disposal. */
export function imageProgress(caller: Caller) {
  const to = caller.stderr;
  const seen = new Set<string>();
  const stages = new Map<ImageProgress['kind'], Stage>();
  let table: LiveTable | undefined;
  const rows = () => {
    const last = Math.max(...[...stages.values()].map((stage) => stage.seen));
    return [...stages.values()].map(({ text, began, seen: until }) => {
      const end = until === last ? performance.now() : until;
      return { cells: [`kiln: ${text}`, `${((end - began) / 1000).toFixed(1)} s`] };
    });
  };
  const report = (progress: ImageProgress): void => {
    if (caller.isQuiet) return;
    const text = describeProgress(progress);
    if (isLive(caller) && !STAYS.has(progress.kind)) {
      const now = performance.now();
      const stage = stages.get(progress.kind) ?? { text, began: now, seen: now };
      stages.set(progress.kind, Object.assign(stage, { text: progressText(progress), seen: now }));
      table ??= new LiveTable(caller, rows);
      return;
    }
    if (progress.kind === 'script' || progress.kind === 'download' || seen.has(text)) return;
    seen.add(text);
    const say = () => to.say(`kiln: ${text}\n`);
    if (table === undefined) say();
    else table.above(say);
  };
  const dispose = () => {
    table?.[Symbol.dispose]();
    table = undefined;
    stages.clear();
  };
  return { report, [Symbol.dispose]: dispose };
}

export async function withProgress<Result>(
  caller: Caller,
  act: (onProgress: (progress: ImageProgress) => void) => Promise<Result>,
): Promise<Result> {
  using progress = imageProgress(caller);
  return await act(progress.report);
}

export async function pickImageFor(
  caller: Caller,
  engine: Engine,
  wanted: string | undefined,
  signal?: AbortSignal,
): Promise<LeasedImage> {
  return await withProgress(caller, (onProgress) =>
    pickImage(engine, wanted, { onProgress, signal, storeChanged: caller.storeChanged }),
  );
}
