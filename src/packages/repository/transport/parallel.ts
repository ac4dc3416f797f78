/**
 * Runs `work` for every item, `limit` at a time. After the first failure nothing more starts, running work is
 * aborted, and the failure is thrown when all of it has ended.
 */
export async function mapParallel<Item, Result>(
  items: readonly Item[],
  limit: number,
  signal: AbortSignal | undefined,
  work: (item: Item, signal: AbortSignal) => Promise<Result>,
): Promise<Result[]> {
  const stop = new AbortController();
  const combined = AbortSignal.any([stop.signal, ...(signal === undefined ? [] : [signal])]);
  const results: Result[] = [];
  const queue = items.entries();
  const worker = async () => {
    for (const [index, item] of queue) {
      combined.throwIfAborted();
      try {
        results[index] = await work(item, combined);
      } catch (error) {
        stop.abort(error);
        throw error;
      }
    }
  };
  const workers = Array.from({ length: Math.min(limit, items.length) }, worker);
  await Promise.allSettled(workers);
  // The first failure aborted the others, whose errors only follow from it.
  combined.throwIfAborted();
  return results;
}
