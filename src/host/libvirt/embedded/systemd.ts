import { existsSync } from 'node:fs';
import { runProgram } from '../../process/child-process.ts';
import type { EmbeddedFiles } from './files.ts';

/** Whether systemd runs this machine (sd_booted(3)). */
export function hasSystemd(): boolean {
  return existsSync('/run/systemd/system');
}

/** The unit of the daemon, and its cgroup below the root of the hierarchy. */
export function unitOf(files: EmbeddedFiles): { name: string; cgroup: string } {
  const name = `${files.name}.service`;
  return { name, cgroup: `system.slice/${name}` };
}

/**
 * The command that has systemd run `start` as a transient unit with a delegated cgroup subtree, so that it
 * outlives the session or CI job that asked for it.
 */
export async function asUnit(
  files: EmbeddedFiles,
  environment: Readonly<Record<string, string>>,
  start: readonly string[],
): Promise<string[]> {
  const { name } = unitOf(files);
  // A unit whose daemon was killed stays loaded while sandboxes run in it.
  const loaded = await runProgram('systemctl', ['show', '--property=LoadState', '--value', name]);
  if (loaded.stdout.trim() === 'loaded') return ['systemctl', 'start', name];
  const { stdout } = await runProgram('systemd-run', ['--version']);
  const version = Number(/^systemd (\d+)/.exec(stdout)?.[1]);
  return [
    'systemd-run',
    `--unit=${name}`,
    '--description=kiln: embedded libvirtd',
    '--collect',
    '--quiet',
    '--property=Delegate=yes',
    // Otherwise all sandboxes would share systemd's default limit, 15 % of the host's tasks.
    '--property=TasksMax=infinity',
    // Sandboxes outlive a killed daemon; the next one takes them over.
    '--property=KillMode=process',
    // Once the unit's own cgroup passes controllers on, systemd can start no process in it.
    ...(version >= 254 ? ['--property=DelegateSubgroup=daemon'] : []),
    `--property=StandardOutput=append:${files.log}`,
    `--property=StandardError=append:${files.log}`,
    ...Object.entries(environment).map(([key, value]) => `--setenv=${key}=${value}`),
    '--',
    ...start,
  ];
}
