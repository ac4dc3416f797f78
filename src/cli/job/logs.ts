import { Command } from 'commander';
import { endOf, Follower } from '../../detached/follow.ts';
import { readJobLog } from '../../detached/log.ts';
import { findJob } from '../../detached/record.ts';
import { statePaths } from '../../host/state/paths.ts';
import { deferred } from '../../promise.ts';
import type { Caller } from '../caller/caller.ts';
import { LogView } from '../output/print.ts';

/** `kiln logs`. */
export function command(caller: Caller): Command {
  return new Command('logs')
    .description('Print what a detached job has written, the last 8 MiB of it at least.')
    .argument('<id>', 'an id or name, as `kiln ps` shows it; the first digits are enough')
    .option('-f, --follow', 'go on until the job has ended')
    .addHelpText('after', '\nExamples:\n  kiln logs 3fa9\n  kiln logs -f nightly')
    .action(async (id: string, options: { follow?: boolean }) => {
      const paths = statePaths(caller.env);
      const job = await findJob(paths, caller.user, id);
      using output = new JobOutput(caller);
      if (options.follow !== true || job.state !== 'running') {
        for (const { output: fd, bytes } of readJobLog(job.folder)) await output.write(fd, bytes);
        return;
      }
      const logged = deferred<number>();
      // What comes from now on waits behind what is in the log.
      output.hold();
      using follower = await Follower.open(paths, job.record.id, {
        follows: logged.resolve,
        output: (fd, bytes) => output.pass(fd, bytes, follower),
        omitted: (bytes) => caller.stderr.say(`kiln: ${bytes} bytes are left out here\n`),
      });
      const until =
        follower && (await Promise.race([logged.promise, follower.over.then(() => undefined)]));
      if (follower !== undefined) follower.paused = true;
      for (const { output: fd, bytes } of readJobLog(job.folder, until))
        await output.write(fd, bytes);
      output.release();
      if (follower === undefined) return;
      follower.paused = false;
      if ((await follower.over) === undefined) await endOf(paths, job);
    });
}

/** Where a job's output goes: as it is, but on a terminal without what a terminal acts on. */
export class JobOutput implements Disposable {
  readonly #views: { readonly 1: LogView; readonly 2: LogView };
  readonly #caller: Caller;
  #held: (readonly [1 | 2, Buffer])[] | undefined;

  constructor(caller: Caller) {
    this.#caller = caller;
    this.#views = { 1: new LogView(caller.stdout), 2: new LogView(caller.stderr) };
  }

  /** Writes, and waits until there is room for more. */
  async write(output: 1 | 2, bytes: Buffer): Promise<void> {
    this.#views[output].write(bytes);
    const { stream } = output === 1 ? this.#caller.stdout : this.#caller.stderr;
    if (!stream.writableNeedDrain) return;
    await new Promise<void>((resolve) => {
      const go = () => {
        stream.off('drain', go).off('close', go);
        resolve();
      };
      stream.on('drain', go).on('close', go);
    });
  }

  /** Writes what comes of a follower, who waits while there is no room. */
  pass(output: 1 | 2, bytes: Buffer, follower: Follower | undefined): void {
    if (this.#held !== undefined) {
      this.#held.push([output, bytes]);
      return;
    }
    const { stream } = output === 1 ? this.#caller.stdout : this.#caller.stderr;
    this.#views[output].write(bytes);
    if (!stream.writableNeedDrain || follower === undefined) return;
    follower.paused = true;
    stream.once('drain', () => {
      follower.paused = false;
    });
  }

  /** What is passed waits from now on. */
  hold(): void {
    this.#held = [];
  }

  release(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const [output, bytes] of held) this.pass(output, bytes, undefined);
  }

  [Symbol.dispose](): void {
    this.#views[1][Symbol.dispose]();
    this.#views[2][Symbol.dispose]();
  }
}
