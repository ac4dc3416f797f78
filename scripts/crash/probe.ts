/**
 * Loaded before kiln by `node --import`: writes the phase it is in to the file CRASH_PHASES, a line
 * each, with the time in milliseconds, before the phase begins. A phase waits a few milliseconds before its work and after it, so
 * that somebody who watches can hit those that are over in less.
 */
import { appendFileSync } from 'node:fs';
import { Timeline } from '../../src/jobs/run/timeline.ts';

const file = process.env.CRASH_PHASES ?? '';

/** Wait at either end of a phase, at most, ms. */
const PAD = 12;

const pad = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Math.random() * PAD);
const tell = (phase: string) => appendFileSync(file, `${performance.now()} ${phase}\n`);
process.once('exit', () => tell('end'));

const { enter } = Timeline.prototype;
Timeline.prototype.enter = function enterSlowly(this: Timeline, name: string): void {
  // Of the phase before.
  pad();
  enter.call(this, name);
  tell(name);
  pad();
};

/** What `kiln image build` prints when it begins something, and the name of that. */
const STEPS = [
  [/^kiln: reading the metadata/, 'metadata'],
  [/^kiln: fetching/, 'fetch'],
  [/^kiln: unpacking/, 'unpack'],
  [/^kiln: composing/, 'compose'],
] as const;

const write = process.stderr.write.bind(process.stderr);
process.stderr.write = ((chunk: string | Uint8Array, ...rest: []) => {
  for (const [pattern, name] of STEPS) {
    if (!pattern.test(String(chunk))) continue;
    tell(name);
    // What comes next may be over in a millisecond.
    pad();
  }
  return write(chunk, ...rest);
}) as typeof process.stderr.write;
