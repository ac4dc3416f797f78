import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { type BusyboxState, IMAGE, KILN } from '../../test/support/busybox-state.ts';

/**
 * A unit, such as a CI job's or an ssh session's, keeps a sandbox and ends, with everything in its
 * cgroup: the sandbox is there still, and with it the libvirtd that it needs.
 */
export async function checkSession(state: BusyboxState): Promise<void> {
  const variables = ['KILN_STATE', 'KILN_URI', 'KILN_FROM_SOURCE', 'KILN_NODE'];
  // Not --pipe: SELinux does not let systemd take our pipes.
  const output = join(state.paths.root, 'output');
  const run = await execa(
    'systemd-run',
    [
      '--wait',
      '--collect',
      '--quiet',
      '--property=KillMode=control-group',
      `--property=StandardOutput=file:${output}`,
      `--property=StandardError=file:${output}`,
      ...variables.map((name) => `--setenv=${name}=${state.env[name] ?? ''}`),
      ...[KILN, 'run', '-r', IMAGE, '--keep=1h', '--', 'sh', '-c', 'echo kept > /tmp/f'],
    ],
    { reject: false, stdin: 'ignore' },
  );
  const said = `${run.stderr}\n${await readFile(output, 'utf8').catch(String)}`;
  assert.equal(run.exitCode, 0, `${run.command} ended with ${run.exitCode}: ${said}`);
  const [sandbox] = JSON.parse(String((await state.kiln(['ps', '--json'])).stdout));
  assert.equal(sandbox?.state, 'kept');
  const shell = await state.kiln(['shell', sandbox.id], { stdin: 'pipe', input: 'cat /tmp/f\n' });
  assert.equal(shell.stdout, 'kept', String(shell.stderr));
  // By libvirtd, which is confined itself where AppArmor or SELinux is in force.
  const killed = await state.kiln(['kill', sandbox.id]);
  assert.equal(killed.exitCode, 0, String(killed.stderr));
}
