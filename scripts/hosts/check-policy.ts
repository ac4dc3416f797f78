import assert from 'node:assert/strict';
import { join } from 'node:path';
import { execa } from 'execa';
import { securityModule } from '../../src/sandbox/labels/module.ts';
import { type BusyboxState, IMAGE } from '../../test/support/busybox-state.ts';

/** The host's `prepare` (kinds.ts) has done what `kiln doctor` says on a host with SELinux. */
export async function checkPolicy(): Promise<void> {
  // By a shell: SELinux does not let semodule write to the socket that execa gives a program.
  assert.match((await execa('sh', ['-c', 'semodule -l | cat'])).stdout, /^kiln$/m);
}

const TRY = ['run', '-r', IMAGE] as const;

/**
 * What kiln says of a host that does not hold sandboxes by labels, and that it refuses them there: kiln's
 * module is not loaded, or SELinux only logs. The host is as before afterwards.
 */
export async function checkHonesty(state: BusyboxState): Promise<void> {
  // The boolean lets Node start without the module.
  await execa('setsebool', ['allow_execmem', 'on']);
  await execa('semodule', ['-d', 'kiln']);
  try {
    const doctor = await state.kiln(['doctor']);
    assert.notEqual(doctor.exitCode, 0, String(doctor.stdout));
    assert.match(String(doctor.stdout), /SELinux, enforcing; .*; no policy module of kiln/);
    assert.match(String(doctor.stdout), /semodule -i \S+\/policy\/kiln\.cil/);
    const run = await state.kiln([...TRY, '--', 'echo', 'ran']);
    assert.equal(run.exitCode, 125);
    assert.equal(run.stdout, '');
    assert.match(String(run.stderr), /SELinux’ policy knows no context \S+:kiln_init_t:/);
    assert.match(String(run.stderr), /hint: load kiln’s module: semodule -i /);
  } finally {
    await execa('semodule', ['-e', 'kiln']);
    await execa('setsebool', ['allow_execmem', 'off']);
  }
  await execa('setenforce', ['0']);
  try {
    const doctor = await state.kiln(['doctor']);
    assert.match(String(doctor.stdout), /SELinux, permissive; .*is loaded/);
    assert.match(String(doctor.stdout), /what a label does not allow is only logged/);
    const run = await state.kiln([...TRY, '--label', 'dynamic', '--', 'echo', 'ran']);
    assert.equal(run.exitCode, 125);
    assert.match(String(run.stderr), /--label dynamic: SELinux only logs on this host/);
    const json = await state.kiln([...TRY, '--json', '--', 'echo', 'ran']);
    assert.equal(json.stdout, 'ran', String(json.stderr));
    const { policy } = JSON.parse(String(json.stderr).split('\n').at(-1) ?? '');
    assert.equal(policy.label.enforcing, false);
  } finally {
    await execa('setenforce', ['1']);
  }
}

/** On a host with SELinux, what sandboxes of tests need that show a layer by being without it. */
export async function withBarePolicy(work: () => Promise<void>): Promise<void> {
  if (securityModule() !== 'selinux') return await work();
  await execa('semodule', ['-i', join(import.meta.dirname, '../../test/support/bare.cil')]);
  try {
    await work();
  } finally {
    await execa('semodule', ['-r', 'bare']);
  }
}
