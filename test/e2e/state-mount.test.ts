import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { securityModule } from '../../src/sandbox/labels/module.ts';
import { busyboxState, IMAGE, KILN } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';

const packages = join(import.meta.dirname, '../../fixtures/rpms/compressors');

/** Calls `work` with a new file system mounted with `options` and the propagation given. */
async function onMount(
  options: string,
  propagation: 'private' | 'shared',
  work: (directory: string) => Promise<void>,
): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-mount-'));
  // As systemd labels the /tmp that it mounts.
  const label = securityModule() === 'selinux' ? ',rootcontext=system_u:object_r:tmp_t:s0' : '';
  const all = `${options},mode=755${label}`;
  await execa('mount', ['-t', 'tmpfs', '-o', all, 'kiln-test', directory]);
  try {
    await execa('mount', [`--make-${propagation}`, directory]);
    await work(directory);
  } finally {
    // What a command left behind may still write for a moment.
    await eventually(async () => {
      await execa('umount', ['--recursive', directory]);
      return true;
    });
    await rm(directory, { recursive: true });
  }
}

// systemd mounts /tmp and /run so, and a hardened host /var.
test('a sandbox starts from a state on a file system mounted nosuid,nodev', async (t) => {
  await onMount('nosuid,nodev', 'private', async (directory) => {
    await using state = await busyboxState(directory);
    const result = await state.kiln(['run', '-r', IMAGE, '--', 'sh', '-c', 'echo up; exit 3']);
    t.is(result.exitCode, 3, String(result.stderr));
    t.is(result.stdout, 'up');
  });
});

// systemd makes every mount of a host shared.
test('mounts in a sandbox do not appear on the host through a shared bind', async (t) => {
  await onMount('rw', 'shared', async (directory) => {
    await using state = await busyboxState(directory);
    const bound = join(directory, 'bound');
    await mkdir(join(bound, 'sub'), { recursive: true });
    const command = state.kiln(
      [
        ...[
          'run',
          '-r',
          IMAGE,
          '--user',
          'root',
          '--bind',
          `${bound}:/mnt/w:rw,Z`,
          '--tmpfs',
          '/mnt/w/sub',
        ],
        ...[
          '--',
          'sh',
          '-c',
          'grep -c /mnt/w/sub /proc/mounts; echo x > /mnt/w/sub/file; read line',
        ],
      ],
      { stdin: 'pipe' },
    );
    const seen: string[] = [];
    for await (const line of command.iterable()) {
      seen.push(line as string);
      t.deepEqual(await readdir(join(bound, 'sub')), []);
      t.notRegex(await readFile('/proc/self/mountinfo', 'utf8'), /bound\/sub/);
      command.stdin?.end('\n');
    }
    t.deepEqual(seen, ['1']);
  });
});

test('a package can be unpacked below a shared mount', async (t) => {
  await onMount('rw', 'shared', async (directory) => {
    const target = join(directory, 'target');
    await mkdir(target);
    const { exitCode, stderr } = await execa(
      KILN,
      ['rpm', 'unpack', '-C', target, join(packages, 'payload-test-0.1-w9.gzdio.x86_64.rpm')],
      { env: { KILN_FROM_SOURCE: '1', KILN_STATE: join(directory, 'state') }, reject: false },
    );
    t.is(exitCode, 0, stderr);
    t.true((await readdir(target)).length > 0);
  });
});
