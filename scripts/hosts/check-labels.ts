import assert from 'node:assert/strict';
import { chmod, mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { policyModule } from '../../src/sandbox/labels/selinux.ts';
import { type BusyboxState, IMAGE } from '../../test/support/busybox-state.ts';

/** What `kiln doctor` says on a host with SELinux. */
export async function loadPolicy(): Promise<void> {
  await execa('semodule', ['-i', policyModule()]);
  assert.match((await execa('semodule', ['-l'])).stdout, /^kiln$/m);
}

/** Labels are in force, seen from inside and from the host's own log. */
export async function checkLabels(state: BusyboxState): Promise<void> {
  const selinux = await readFile('/sys/fs/selinux/enforce', 'utf8').catch(() => undefined);
  if (selinux === undefined) await checkProfile(state);
  else {
    assert.equal(selinux, '1', 'this host is to enforce');
    await checkCategories(state);
  }
}

/** A mount is refused by the profile where neither seccomp nor a capability does so, and logged. */
async function checkProfile(state: BusyboxState): Promise<void> {
  const label = ['cat', '/proc/self/attr/current'];
  const run = await state.kiln(['run', '-r', IMAGE, '--', ...label]);
  assert.match(
    String(run.stdout),
    /^libvirt-kiln-box-[0-9a-f]{8} \(enforce\)$/,
    String(run.stderr),
  );
  const mount = ['sh', '-c', 'mount -t tmpfs tmpfs /tmp && echo mounted'];
  const allowed = ['--user', 'root', '--cap-add', 'SYS_ADMIN', '--seccomp', 'nested'];
  const refused = await state.kiln(['run', '-r', IMAGE, ...allowed, '--', ...mount]);
  assert.doesNotMatch(String(refused.stdout), /mounted/);
  const { stdout: log } = await execa('journalctl', ['-k', '--no-pager', '-b']);
  assert.match(log, /apparmor="DENIED" operation="mount".*profile="libvirt-kiln-box-[0-9a-f]{8}"/);
  const without = await state.kiln([
    ...['run', '-r', IMAGE, ...allowed, '--label', 'none', '--', ...mount],
  ]);
  assert.match(
    String(without.stdout),
    /mounted/,
    `only the profile was in its way: ${without.stderr}`,
  );
}

/**
 * A file that everybody may read by its mode, and that is bound into two boxes of the same user: the
 * one whose label it has reads it, the other does not, unless the host only logs.
 */
async function checkCategories(state: BusyboxState): Promise<void> {
  const shared = join(state.paths.root, 'shared');
  await mkdir(shared);
  await chmod(shared, 0o777);
  const bind = (options: string) => ['run', '-r', IMAGE, '--bind', `${shared}:/d:${options}`, '--'];
  const own = 'cat /proc/self/attr/current';
  const script = `${own}; echo; echo secret > /d/f && chmod 666 /d/f && cat /d/f`;
  const first = await state.kiln([...bind('rw,Z'), 'sh', '-c', script]);
  assert.match(String(first.stdout), /:kiln_t:s0:c\d+,c\d+\0?\n+secret$/, String(first.stderr));
  const { stdout: context } = await execa('stat', ['-c', '%C', join(shared, 'f')]);
  assert.match(context, /:container_file_t:s0:c\d+,c\d+$/);
  const read = ['cat', '/d/f'];
  const second = await state.kiln([...bind('rw'), ...read]);
  // The init does not even get the folder's descriptor.
  assert.equal(second.exitCode, 125);
  assert.doesNotMatch(String(second.stdout), /secret/);
  const why = `SELinux keeps ${shared} out of the sandbox: \\S+:kiln_init_t:s0:c\\d+,c\\d+ may not use \\S+:container_file_t:s0:c\\d+,c\\d+\\n`;
  assert.match(String(second.stderr), new RegExp(why));
  assert.match(String(second.stderr), /hint: .*:Z.*:z/);
  await execa('setenforce', ['0']);
  try {
    const logged = await state.kiln([...bind('rw'), ...read]);
    assert.equal(logged.stdout, 'secret', `only SELinux was in its way: ${logged.stderr}`);
  } finally {
    await execa('setenforce', ['1']);
  }
  const everybody = await state.kiln([...bind('rw,z'), ...read]);
  assert.equal(everybody.stdout, 'secret', String(everybody.stderr));
}
