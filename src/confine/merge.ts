import { awaitedLater } from '../promise.ts';

type Source<Value> = AsyncGenerator<Value, void, undefined>;

/**
 * Several iterations at once, as one: whatever comes first is first. When one fails, or the caller
 * stops early, the others are aborted, and have ended before this ends.
 *
 * @param start Makes the iterations; they must heed the signal it is given.
 */
export async function* mergeIterations<Value>(
  start: (signal: AbortSignal) => readonly Source<Value>[],
  outer?: AbortSignal,
): Source<Value> {
  const own = new AbortController();
  const signal = outer === undefined ? own.signal : AbortSignal.any([outer, own.signal]);
  const sources = start(signal);
  const waiting = new Map<number, Promise<{ from: number; step: IteratorResult<Value, void> }>>();
  const ask = (from: number) => {
    // A source that fails while the caller is busy is reported when it asks again.
    const next = awaitedLater(sources[from]!.next().then((step) => ({ from, step })));
    waiting.set(from, next);
  };
  for (const from of sources.keys()) ask(from);
  try {
    while (waiting.size > 0) {
      const { from, step } = await Promise.race(waiting.values());
      waiting.delete(from);
      if (step.done === true) continue;
      ask(from);
      yield step.value;
    }
  } finally {
    own.abort();
    await Promise.allSettled(sources.map((source) => source.return()));
  }
}
