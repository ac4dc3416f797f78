/** scripts/sweep, and what scratchFolder() runs at the end of a script. */
import { existsSync, readdirSync, realpathSync, rmdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { attempt } from '../../src/host/calls/libc.ts';
import { removeTree } from '../../src/host/files/remove-tree.ts';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import { endDaemon, endSandboxes } from '../../test/support/daemon.ts';
import { Leftovers } from './leftovers.ts';
import { refuseCall } from './options.ts';

/** How long processes have to end by themselves. */
const PATIENCE_MS = 5_000;

/** Returns what is left, a line each. */
async function sweep(folder: string): Promise<string[]> {
  using left = new Leftovers([folder]);
  const roots = left.ownStates();
  for (const root of roots) await endState(root).catch(tell);
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    for (const pid of left.ownProcesses()) attempt(() => process.kill(pid, signal));
    for (const until = Date.now() + PATIENCE_MS; Date.now() < until; await sleep(50)) {
      if (left.ownProcesses().length === 0) break;
    }
  }
  const runs = roots.map((root) => statePaths({ KILN_STATE: root }).run);
  for (const path of left.ownMounts().reverse()) await execa('umount', ['-l', path]).catch(tell);
  for (const path of left.ownCgroups().reverse()) attempt(() => removeGroup(path));
  for (const path of [...runs, folder]) if (existsSync(path)) await removeTree(path).catch(tell);
  return [
    ...left.ownProcesses().map((pid) => `process ${pid}`),
    ...left.ownMounts().map((path) => `mount ${path}`),
    ...left.ownCgroups().map((path) => `control group ${path}`),
    ...[...runs, folder].filter((path) => existsSync(path)),
  ];
}

/** Ends sandboxes in their own way, which gives back what they have reserved; then who served them. */
async function endState(root: string): Promise<void> {
  const env = { ...process.env, KILN_STATE: root, KILN_PARKED: '0' };
  const paths = statePaths(env);
  if (existsSync(root)) await endSandboxes(paths, env);
  await endDaemon(root);
  await stopEmbeddedDaemon(paths);
}

function removeGroup(path: string): void {
  for (const entry of readdirSync(path, { withFileTypes: true }))
    if (entry.isDirectory()) removeGroup(`${path}/${entry.name}`);
  rmdirSync(path);
}

function tell(error: unknown): void {
  process.stderr.write(`${(error as Error).message}\n`);
}

// Whoever presses ^C once more waits for this.
for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM']) process.on(signal, () => undefined);
const folders = process.argv.slice(2);
if (folders.length === 0) refuseCall('name a folder; --help says more');
const shallow = folders.find((path) => realpathSync(path).split('/').length < 3);
if (shallow !== undefined) refuseCall(`${shallow} holds more than a script has left`);
for (const folder of folders) {
  const lines = await sweep(realpathSync(folder));
  for (const line of lines) process.stderr.write(`left: ${line}\n`);
  if (lines.length > 0) process.exitCode = 1;
}
