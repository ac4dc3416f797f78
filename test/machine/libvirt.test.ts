/** A machine by the libvirt of the host, here one that the test starts in a mount namespace of its own. */
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { eventually, until } from '../support/eventually.ts';
import { long } from '../support/long.ts';

/** With the host's own configuration, and none of its folders. */
const START = `mount --make-rprivate /
for d in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /run/libvirt; do
  mkdir -p "$1$d" "$d"
  [ $d = /etc/libvirt ] && cp -a $d/. "$1$d/"
  mount --bind "$1$d" $d
done
virtlogd --pid-file "$1/virtlogd.pid" &
logs=$!
libvirtd --config "$1/libvirtd.conf" --pid-file "$1/libvirtd.pid" &
daemon=$!
trap 'kill $daemon $logs' TERM
wait`;

async function hostsLibvirt() {
  const folder = await mkdtemp(join(tmpdir(), 'kiln-libvirt-'));
  const settings = { unix_sock_dir: folder, auth_unix_rw: 'none', auth_unix_ro: 'none' };
  const lines = Object.entries(settings).map(([name, value]) => `${name} = "${value}"\n`);
  await writeFile(join(folder, 'libvirtd.conf'), lines.join(''));
  const words = ['--mount', 'sh', '-c', START, 'sh', folder];
  const daemon = execa('unshare', words, { reject: false, stdio: 'ignore' });
  const socket = join(folder, 'libvirt-sock');
  return {
    uri: `qemu+unix:///system?socket=${socket}`,
    isThere: () =>
      until(() => existsSync(socket) && existsSync(`${folder}/run/libvirt/virtlogd-sock`)),
    async [Symbol.asyncDispose]() {
      daemon.kill('SIGTERM');
      await daemon;
      await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    },
  };
}

long('KILN_URI=qemu:///system has a machine in the libvirt of the host', async (t) => {
  t.timeout(400_000 * PATIENCE);
  await using state = await busyboxState();
  await using libvirt = await hostsLibvirt();
  t.true(await libvirt.isThere());
  const running = state.kiln(
    [
      'run',
      '--allow-missing',
      'kvm',
      '-r',
      IMAGE,
      '--',
      'sh',
      '-c',
      'uname -r; echo ready; read line',
    ],
    { env: { ...state.env, KILN_URI: libvirt.uri }, stdin: 'pipe', timeout: 240_000 * PATIENCE },
  );
  await Promise.race([once(running.stdout!, 'data'), running]);
  const listed = await execa('virsh', ['-q', '-c', libvirt.uri, 'list', '--name']);
  t.regex(listed.stdout, /^kiln-\w+-\w+$/m);
  running.stdin?.end('\n');
  const { exitCode, stdout, stderr } = await running;
  t.is(exitCode, 0, String(stderr));
  const host = (await execa('uname', ['-r'])).stdout;
  t.false(String(stdout).startsWith(host));
  // It is forgotten once somebody has collected qemu, for which nobody waits.
  const all = ['-q', '-c', libvirt.uri, 'list', '--all', '--name'];
  await eventually(async () => (await execa('virsh', all)).stdout === '');
});

test('KILN_URI=qemu:///session wants KVM, as --isolation vm does', async (t) => {
  await using state = await busyboxState();
  const env = { ...state.env, KILN_URI: 'qemu:///session' };
  const { exitCode, stderr } = await state.kiln(['run', '-r', IMAGE, '--', 'true'], { env });
  t.is(exitCode, 125);
  t.regex(String(stderr), /--allow-missing kvm/);
});

long('KILN_URI=qemu:///session has a machine in kiln’s own libvirt', async (t) => {
  t.timeout(400_000 * PATIENCE);
  await using state = await busyboxState();
  const env = { ...state.env, KILN_URI: 'qemu:///session' };
  const words = ['run', '--allow-missing', 'kvm', '-r', IMAGE, '--', 'uname', '-r'];
  const { exitCode, stdout, stderr } = await state.kiln(words, {
    env,
    timeout: 240_000 * PATIENCE,
  });
  t.is(exitCode, 0, String(stderr));
  t.not(stdout, (await execa('uname', ['-r'])).stdout);
});
