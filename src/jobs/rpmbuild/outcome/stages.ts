import type { Timeline } from '../../run/timeline.ts';
import type { BuildHooks, BuildPhase } from './report.ts';

const SECTIONS: Readonly<Record<string, BuildPhase>> = {
  prep: 'prep',
  generate_buildrequires: 'dynamic-buildrequires',
  build: 'compile',
  install: 'install',
  check: 'check',
};

/** Bytes of a line that are looked at. */
const LINE_LENGTH = 200;

/**
 * Tells the parts of rpmbuild's run by what it writes before each. A package can write the same
 * lines, so this is for people and for times, nothing depends on it.
 */
export class Stages {
  readonly #timeline: Timeline;
  readonly #onPhase: BuildHooks['onPhase'];
  #current: BuildPhase | undefined;
  /** The section of the spec that runs, such as `%build`. */
  section: string | undefined;
  #since = 0;
  #line = '';

  constructor(timeline: Timeline, onPhase: BuildHooks['onPhase']) {
    this.#timeline = timeline;
    this.#onPhase = onPhase;
  }

  push(chunk: Buffer): void {
    const lines = (this.#line + chunk.toString('latin1')).split('\n');
    this.#line = (lines.pop() ?? '').slice(0, LINE_LENGTH);
    for (const line of lines) this.#look(line);
  }

  /** rpmbuild has ended. */
  end(failed: boolean): void {
    this.#leave(failed ? 'fail' : 'finish');
  }

  get current(): BuildPhase | undefined {
    return this.#current;
  }

  #look(line: string): void {
    const section = /^Executing\(%(\w+)\): /.exec(line)?.[1];
    if (section !== undefined) {
      this.section = `%${section}`;
      this.#enter(SECTIONS[section]);
    } else if (line.startsWith('Processing files: ')) {
      this.section = undefined;
      this.#enter('package');
    }
  }

  #enter(phase: BuildPhase | undefined): void {
    if (phase === undefined || phase === this.#current) return;
    this.#leave('finish');
    this.#current = phase;
    this.#since = performance.now();
    this.#onPhase?.(phase, 'start');
  }

  #leave(event: 'finish' | 'fail'): void {
    if (this.#current === undefined) return;
    this.#timeline.note(this.#current, this.#since);
    this.#onPhase?.(this.#current, event);
    this.#current = undefined;
  }
}
