import type { TransferOptions } from './transfer-options.ts';

/** Watches the flow of one transfer. */
export interface StallWatch extends Disposable {
  /** So many bytes came. */
  received(bytes: number): void;
}

/** Calls `onStall` once with the reason when too few bytes arrive. */
export function watchStall(
  options: TransferOptions,
  onStall: (reason: string) => void,
): StallWatch {
  let lastByte = performance.now();
  let windowStart = lastByte;
  let windowBytes = 0;
  const period = Math.max(10, Math.min(options.idleTimeout, options.rateWindow) / 8);
  let lastCheck = lastByte;
  const check = () => {
    const now = performance.now();
    const late = now - lastCheck > 3 * period;
    lastCheck = now;
    if (late) {
      // This process was suspended or busy; the server is not at fault.
      lastByte = windowStart = now;
      windowBytes = 0;
      return;
    }
    if (now - lastByte > options.idleTimeout) {
      onStall(`it stalled: nothing came for ${seconds(now - lastByte)} s`);
      return;
    }
    const elapsed = now - windowStart;
    if (elapsed < options.rateWindow) return;
    const rate = (windowBytes * 1000) / elapsed;
    if (rate < options.minimumRate) {
      onStall(`it stalled: ${Math.round(rate)} bytes/s over ${seconds(elapsed)} s`);
    }
    windowStart = now;
    windowBytes = 0;
  };
  const timer = setInterval(check, period);
  return {
    received(bytes) {
      lastByte = performance.now();
      windowBytes += bytes;
    },
    [Symbol.dispose]: () => clearInterval(timer),
  };
}

function seconds(milliseconds: number): string {
  return (milliseconds / 1000).toFixed(1);
}
