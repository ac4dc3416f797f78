import assert from 'node:assert/strict';
import { chmod, mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { type BusyboxState, IMAGE } from '../../test/support/busybox-state.ts';

const LABEL = 'cat /proc/self/attr/current';

const READ = ['cat', '/d/f'];

/** Labels are in force, seen from inside and from the host's own log. */
export async function checkLabels(state: BusyboxState): Promise<void> {
  const selinux = await readFile('/sys/fs/selinux/enforce', 'utf8').catch(() => undefined);
  if (selinux === undefined) await checkProfile(state);
  else {
    assert.equal(selinux, '1', 'this host is to enforce');
    await checkCategories(state);
    await checkRequests(state);
  }
  await checkNested(state);
}

/** A sandbox for sandboxes makes a user namespace, and mounts in it. */
async function checkNested(state: BusyboxState): Promise<void> {
  const mount = ['unshare', '-U', '-r', '-m', 'mount', '-t', 'tmpfs', 'tmpfs', '/tmp'];
  const run = await state.kiln(['run', '-r', IMAGE, '--profile', 'nested', '--', ...mount]);
  assert.equal(run.exitCode, 0, String(run.stderr));
}

/** A mount is refused by the profile where neither seccomp nor a capability does so, and logged. */
async function checkProfile(state: BusyboxState): Promise<void> {
  const run = await state.kiln(['run', '-r', IMAGE, '--', ...LABEL.split(' ')]);
  assert.match(
    String(run.stdout),
    /^libvirt-kiln-sandbox-[0-9a-f]{8} \(enforce\)$/,
    String(run.stderr),
  );
  const mount = ['sh', '-c', 'mount -t tmpfs tmpfs /tmp && echo mounted'];
  const allowed = ['--user', 'root', '--cap-add', 'SYS_ADMIN'];
  const refused = await state.kiln(['run', '-r', IMAGE, ...allowed, '--', ...mount]);
  assert.doesNotMatch(String(refused.stdout), /mounted/);
  const { stdout: log } = await execa('journalctl', ['-k', '--no-pager', '-b']);
  assert.match(
    log,
    /apparmor="DENIED" operation="mount".*profile="libvirt-kiln-sandbox-[0-9a-f]{8}"/,
  );
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
 * A file that everybody may read by its mode, and that is bound into two sandboxes of the same user: the
 * one whose label it has reads it, the other does not, unless the host only logs.
 */
async function checkCategories(state: BusyboxState): Promise<void> {
  const shared = join(state.beside, 'shared');
  await mkdir(shared);
  await chmod(shared, 0o777);
  const bind = (options: string) => ['run', '-r', IMAGE, '--bind', `${shared}:/d:${options}`, '--'];
  const script = `${LABEL}; echo; echo secret > /d/f && chmod 666 /d/f && cat /d/f`;
  const first = await state.kiln([...bind('rw,Z'), 'sh', '-c', script]);
  assert.match(String(first.stdout), /:kiln_t:s0:c\d+,c\d+\0?\n+secret$/, String(first.stderr));
  const { stdout: context } = await execa('stat', ['-c', '%C', join(shared, 'f')]);
  assert.match(context, /:container_file_t:s0:c\d+,c\d+$/);
  const second = await state.kiln([...bind('rw'), ...READ]);
  // The init does not even get the folder's descriptor.
  assert.equal(second.exitCode, 125);
  assert.doesNotMatch(String(second.stdout), /secret/);
  const why = `SELinux keeps ${shared} out of the sandbox: \\S+:kiln_init_t:s0:c\\d+,c\\d+ may not use \\S+:container_file_t:s0:c\\d+,c\\d+ \\[E_BIND\\]\\n`;
  assert.match(String(second.stderr), new RegExp(why));
  assert.match(String(second.stderr), /hint: .*:Z.*:z/);
  await execa('setenforce', ['0']);
  try {
    const logged = await state.kiln([...bind('rw'), ...READ]);
    assert.equal(logged.stdout, 'secret', `only SELinux was in its way: ${logged.stderr}`);
  } finally {
    await execa('setenforce', ['1']);
  }
  const everybody = await state.kiln([...bind('rw,z'), ...READ]);
  assert.equal(everybody.stdout, 'secret', String(everybody.stderr));
}

/** What `--label` asks for is what the kernel says of a command, and decides what it may read. */
async function checkRequests(state: BusyboxState): Promise<void> {
  const folder = join(state.beside, 'requests');
  await mkdir(folder);
  await chmod(folder, 0o777);
  const run = async (label: string, bind: string, script: string) => {
    const options = ['--label', label, '--bind', `${folder}:/d:${bind}`];
    const done = await state.kiln(['run', '-r', IMAGE, ...options, '--', 'sh', '-c', script]);
    return {
      ...done,
      stdout: String(done.stdout).replaceAll('\0', ''),
      stderr: String(done.stderr),
    };
  };
  const dynamic = await run('dynamic', 'rw,Z', LABEL);
  assert.match(dynamic.stdout, /^system_u:system_r:kiln_t:s0:c\d+,c\d+$/, dynamic.stderr);
  const typed = await run('dynamic:system_u:system_r:kiln_nested_t:s0', 'rw,Z', LABEL);
  assert.match(typed.stdout, /^system_u:system_r:kiln_nested_t:s0:c\d+,c\d+$/, typed.stderr);
  const label = 'system_u:system_r:kiln_t:s0:c7,c9';
  const fixed = await run(`static:${label}`, 'rw,Z', `echo ours >/d/f && ${LABEL}`);
  assert.equal(fixed.stdout, label, fixed.stderr);
  // The same categories are the same rights; others of the same form are not.
  const same = await run(`static:${label}`, 'rw', READ.join(' '));
  assert.equal(same.stdout, 'ours', same.stderr);
  const other = await run('static:system_u:system_r:kiln_t:s0:c7,c10', 'rw', READ.join(' '));
  assert.equal(other.exitCode, 125, other.stdout);
  assert.match(other.stderr, /SELinux keeps \S+ out of the sandbox: \S+:kiln_init_t:s0:c7,c10 may/);
  const unknown = await run('static:system_u:system_r:no_such_t:s0', 'rw', LABEL);
  assert.match(unknown.stderr, /SELinux’ policy knows no context \S+:no_such_t:s0/);
  assert.equal(unknown.exitCode, 125);
  // The policy keeps libvirt from starting anything as root's shell.
  const inherit = await run('inherit', 'rw', LABEL);
  assert.match(
    inherit.stderr,
    /--label inherit: SELinux’ policy does not let \S+:virtd_lxc_t:s0 start/,
  );
  assert.match(
    inherit.stderr,
    /as unconfined_u:unconfined_r:unconfined_t:s0 \[E_LAYER_MISSING\]\n/,
  );
  assert.equal(inherit.exitCode, 125);
}
