/**
 * kiln in containers of podman's: on this host's own files, with an overlay over them. The oracle for what
 * a sandbox has is what is measured in it.
 */
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, IMAGE, KILN } from '../support/busybox-state.ts';
import { LEAVE_ROOT, removeStorage, runContainer } from '../support/container.ts';

let state: BusyboxState;
let storage: string;

test.before(async () => {
  state = await busyboxState();
  storage = await mkdtemp(join(tmpdir(), 'kiln-podman-'));
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
  await removeStorage(storage);
});

/** What docs/containers.md names as the least that suffices. */
const LEAST = [
  ...['--cap-drop', 'all', '--cap-add'],
  'CHOWN,DAC_OVERRIDE,FOWNER,SETGID,SETUID,SYS_ADMIN,MKNOD,SETPCAP,SYS_PTRACE',
  ...[
    '--device',
    '/dev/fuse',
    '--security-opt',
    'unmask=ALL',
    '--security-opt',
    'seccomp=unconfined',
  ],
  ...['--cgroupns', 'private'],
];

/** Makes /sys and the cgroups writable, as the page says, before anything else. */
const WRITABLE = `mount -o remount,rw /sys
  findmnt -rno TARGET -t cgroup,cgroup2 | while read -r path; do mount -o remount,rw,bind "$path"; done`;

/** Runs a shell script as the first process of a container. */
function inContainer(
  options: readonly string[],
  script: string,
  volume: string = state.paths.root,
) {
  const env = { KILN_STATE: '/var/lib/kiln', KILN_NODE: process.execPath, KILN_FROM_SOURCE: '' };
  return runContainer(storage, {
    options: ['-v', `${volume}:/var/lib/kiln`, ...options],
    env,
    script,
  });
}

const RUN = `'${KILN}' run -r ${IMAGE} --resultdir /tmp/out -- cat /proc/self/uid_map`;
const LIMITS = `echo; grep -A3 '"limits": {$' /tmp/out/result.json`;

for (const [title, options, before] of [
  ['--privileged', ['--privileged', '--cgroupns', 'private'], LEAVE_ROOT],
  [
    '--privileged in the host’s cgroup namespace',
    ['--privileged', '--cgroupns', 'host'],
    LEAVE_ROOT,
  ],
  ['the least privileges', LEAST, `${WRITABLE}\n${LEAVE_ROOT}`],
] as const) {
  test.serial(`${title}: doctor finds nothing to mend, and runs have their limits`, async (t) => {
    const script = `${before}\n'${KILN}' doctor --json; ${RUN}; echo "status $?"; ${LIMITS}`;
    const { stdout, stderr } = await inContainer(options, script);
    t.regex(stdout, /"ok": true/, stdout + stderr);
    t.regex(stdout, /^ +0 +\d+ +65536$/m);
    t.regex(stdout, /^status 0$/m, stderr);
    t.regex(stdout, /"memory": \d{9,}/);
    t.regex(stdout, /"pids": 8192/);
  });
}

test.serial(
  'without privileges, doctor names what is missing and a run gives a hint',
  async (t) => {
    const script = `'${KILN}' doctor; echo "doctor $?"; ${RUN}; echo "status $?"`;
    const { stdout, stderr } = await inContainer([], script);
    t.regex(stdout, /^doctor 1$/m, stderr);
    for (const check of [
      'privileges',
      'system-calls',
      'proc-and-sys',
      'devices',
      'cgroups',
      'sandbox',
    ]) {
      t.regex(stdout, new RegExp(`^fail {2}${check} `, 'm'));
    }
    t.regex(stdout, /podman --privileged/);
    t.regex(stdout, /^status 125$/m);
    t.notRegex(stderr, /internal error: (?:Error|TypeError)/);
    t.regex(stderr, /hint: /);
  },
);

test.serial('in a container, sandboxes are parked only on request', async (t) => {
  const options = ['--privileged', '--cgroupns', 'private'];
  // kilnd parks half a second after a command's end.
  const script = `${LEAVE_ROOT}\n${RUN}; sleep 3; '${KILN}' ps -a; '${KILN}' park -n 1; '${KILN}' ps -a`;
  const { stdout, stderr } = await inContainer(options, script);
  const [, before = '', after = ''] = stdout.split(/^ID .*$/m);
  t.notRegex(before, /^\w+ +parked /m, stdout + stderr);
  t.regex(after, /^\w+ +parked /m, stdout + stderr);
});

test.serial('sandboxes of two containers have different ids', async (t) => {
  const options = ['--privileged', '--cgroupns', 'private'];
  // One state each: what is shared is the kernel alone.
  const volumes = ['one', 'two'].map((name) => join(storage, name));
  for (const volume of volumes) await execa('cp', ['-a', state.paths.root, volume]);
  const both = await Promise.all(
    volumes.map((volume) => inContainer(options, `${LEAVE_ROOT}\n${RUN}`, volume)),
  );
  const bases = both.map(({ stdout, stderr }) => {
    const [, base] = /^ +0 +(\d+) +65536$/m.exec(stdout) ?? [];
    t.truthy(base, stdout + stderr);
    return base;
  });
  t.not(bases[0], bases[1]);
});
