/** Errors of the kernel that read as something else: what kiln says about them. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { asKilnError, namingFullDisk } from '../../src/host/calls/system-error.ts';
import { execError } from '../../src/sandbox/command/failures.ts';
import { busyboxState, IMAGE, KILN } from '../support/busybox-state.ts';

test('a file system without an inode is not called full', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'kiln-inodes-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'nr_inodes=4,size=1m', 'none', folder]);
  t.teardown(() => {
    execFileSync('umount', [folder]);
    rmSync(folder, { recursive: true });
  });
  const fill = (bytes: Buffer) => {
    for (let n = 0; n < 10; n++) writeFileSync(join(folder, String(n)), bytes);
  };
  const lacking = asKilnError(t.throws(() => fill(Buffer.alloc(1))));
  t.is(lacking.code, 'E_DISK_FULL');
  t.regex(lacking.message, /^cannot open .*: no inode is left$/);
  t.regex(String(namingFullDisk(lacking.cause, folder)), /no inode is left for /);
  execFileSync('rm', ['-r', join(folder, '1')]);
  const full = asKilnError(t.throws(() => fill(Buffer.alloc(2 << 20))));
  t.is(full.code, 'E_DISK_FULL');
  t.regex(full.message, /no space is left/);
  t.regex(String(namingFullDisk(full.cause, folder)), /no room is left for /);
});

for (const [what, make] of [
  ['that is missing', ': >"$0/two"'],
  ['that is there', 'mkdir "$0/results"'],
] as const)
  test(`a result folder ${what} without an inode is not called full`, async (t) => {
    await using state = await busyboxState();
    const script = `mount -t tmpfs -o nr_inodes=3 none "$0"; ${make}
    : >"$0/one"
    exec "$1" run -r ${IMAGE} --artifact /tmp/out --resultdir "$0/results" -- sh -c ": >/tmp/out"`;
    const unshare = ['--mount', 'sh', '-c', script, state.beside, KILN];
    const { exitCode, stderr } = await execa('unshare', unshare, { env: state.env, reject: false });
    t.is(exitCode, 125);
    const said = /kiln: the result folder \S+ cannot be used: no inode is left \[E_RESULTDIR\]\n/;
    t.regex(stderr, said);
  });

test('a sandbox without a free terminal is not called a full disk', (t) => {
  const answer = { failure: 'terminal', error: constants.errno.ENOSPC, text: '' };
  const error = execError(answer as Parameters<typeof execError>[0], ['top'], 'default');
  t.is(error.code, 'E_EXEC');
  t.is(error.message, 'cannot start top: no terminal is free');
  t.regex(error.hint ?? '', /64.*kernel\.pty\.max/);
});
