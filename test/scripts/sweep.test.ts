/** A script that is interrupted, by what the kernel shows of it afterwards. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { PATIENCE } from '../support/busybox-state.ts';

const top = join(import.meta.dirname, '../..');

/** Makes a state with a sandbox, a mount and a process that ignores signals, and goes on. */
const SCRIPT = `
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { scratchFolder } from '${top}/scripts/scratch.ts';
import { busyboxState, IMAGE } from '${top}/test/support/busybox-state.ts';
const folder = scratchFolder('sweep-test');
await using state = await busyboxState();
await state.kiln(['run', '-r', IMAGE, '--keep', '--', 'true']);
mkdirSync(folder + '/mounted');
execFileSync('mount', ['-t', 'tmpfs', 'none', folder + '/mounted']);
spawn('sh', ['-c', 'trap "" INT TERM; sleep 600; :'], { stdio: 'ignore', detached: true });
process.stdout.write(JSON.stringify([folder, state.paths.run]) + '\\n');
await new Promise((resolve) => setTimeout(resolve, 600_000));
`;

/** Processes whose command line, environment or control group has this text. */
function processesWith(text: string): string[] {
  const files = (pid: string) =>
    ['cmdline', 'environ', 'cgroup'].map((name) => `/proc/${pid}/${name}`);
  const has = (file: string) => {
    try {
      return readFileSync(file, 'utf8').includes(text);
    } catch {
      return false;
    }
  };
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.filter((pid) => pid !== String(process.pid) && files(pid).some(has));
}

test('a script leaves no sandbox, process, mount or file at ^C', async (t) => {
  t.timeout(60_000 * PATIENCE);
  const script = spawn(process.execPath, ['--input-type=module-typescript', '-e', SCRIPT], {
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  });
  const [line] = (await once(script.stdout, 'data')) as [Buffer];
  const [folder, run] = JSON.parse(String(line)) as [string, string];
  t.true(processesWith(folder).length > 2, 'kilnd, libvirtd, sh');
  t.true(readFileSync('/proc/self/mountinfo', 'utf8').includes(folder));
  process.kill(-(script.pid ?? 0), 'SIGINT');
  t.is((await once(script, 'exit'))[0], 130);
  t.deepEqual(processesWith(folder), []);
  t.false(readFileSync('/proc/self/mountinfo', 'utf8').includes(folder));
  t.false(existsSync(folder));
  t.false(existsSync(run));
});
