import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Stops a process (SIGSTOP) and waits until it is; disposing of the result lets it go on. Only for
 * processes that a test has started.
 */
export async function stopped(pid: number): Promise<Disposable> {
  process.kill(pid, 'SIGSTOP');
  const resume = () => {
    try {
      process.kill(pid, 'SIGCONT');
    } catch {
      // It was killed, as the test wanted.
    }
  };
  for (
    let tries = 0;
    !/^\d+ \(.*\) [Tt]/.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
    tries++
  ) {
    if (tries > 1000) {
      resume();
      throw new Error(`process ${pid} was not stopped`);
    }
    await sleep(5);
  }
  return { [Symbol.dispose]: resume };
}
