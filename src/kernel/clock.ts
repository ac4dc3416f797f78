/**
 * The monotonic clock, milliseconds. `performance.now()` tells the same, but the first use of
 * `performance` loads what a start of kiln takes two milliseconds for.
 */
export function monotonicMs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1e3 + nanoseconds / 1e6;
}
