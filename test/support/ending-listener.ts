import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';

/**
 * A process that listens at `path` and accepts nobody. The function kills it and comes back when it is dead: who has
 * connected meanwhile, without a turn of the event loop, learns that as ECONNRESET.
 */
export async function endingListener(path: string): Promise<() => void> {
  mkdirSync(dirname(path), { recursive: true });
  const script = `import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listens", flush=True)
time.sleep(1000)`;
  const listener = spawn('python3', ['-c', script, path], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(listener.stdout, 'data');
  return () => {
    listener.kill('SIGKILL');
    execFileSync('sh', [
      '-c',
      `while grep -q '^State:\t[^ZX]' /proc/${listener.pid}/status; do :; done`,
    ]);
  };
}
