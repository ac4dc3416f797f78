import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { type BusyboxState, IMAGE } from '../../test/support/busybox-state.ts';
import { eventually } from '../../test/support/eventually.ts';

const MEMORY = ['--memory', '256M'];

const KEEP = [
  ...['run', '-r', IMAGE, '--isolation', 'vm', '--allow-missing', 'kvm', ...MEMORY],
  ...['--keep=1h', '--json'],
];

/** Of an emulated host, milliseconds. */
const PATIENCE = { timeout: 900_000 };

/** What is looked at of the result. */
interface Result {
  readonly policy: {
    readonly machine: { readonly label: { readonly label: string; readonly enforcing: boolean } };
  };
}

/** Where libvirt writes the profiles of its machines. */
const PROFILES = '/etc/apparmor.d/libvirt';

const profiles = async () =>
  (await readdir(PROFILES).catch(() => [])).filter((name) => /^libvirt-\w{8}-/.test(name));

/** The qemu of a machine has a label of its own, of one that has booted, and of one that was saved. */
export async function checkMachines(state: BusyboxState): Promise<void> {
  const selinux = await readFile('/sys/fs/selinux/enforce', 'utf8').catch(() => undefined);
  const own = selinux === undefined ? /^libvirt-[0-9a-f-]{36}$/ : /:kiln_qemu_t:s0:c\d+,c\d+$/;
  const before = await profiles();
  const labels = new Map<string, string>();
  const start = async () => {
    const { exitCode, stderr } = await state.kiln([...KEEP, '--', 'true'], PATIENCE);
    assert.equal(exitCode, 0, String(stderr));
    const [, sandbox = ''] = /kept as (\w+)/.exec(String(stderr)) ?? [];
    const { policy } = JSON.parse(String(stderr).split('\n').at(-1) ?? '') as Result;
    const { label, enforcing } = policy.machine.label;
    assert.match(label, own);
    assert.ok(enforcing);
    // The kernel's own word for it.
    assert.ok((await labelsOfProcesses()).includes(label), label);
    labels.set(sandbox, label);
  };
  await start();
  await start();
  // The first of these is saved, and all are restored of it.
  const parked = await state.kiln(['park', '--isolation', 'vm', '-n', '1', ...MEMORY], PATIENCE);
  assert.equal(parked.exitCode, 0, String(parked.stderr));
  await start();
  assert.equal(new Set(labels.values()).size, 3);
  for (const id of labels.keys()) assert.equal((await state.kiln(['stop', id])).exitCode, 0);
  await state.kiln(['park', '--none']);
  assert.ok(
    await eventually(async () => (await profiles()).every((name) => before.includes(name))),
  );
}

async function labelsOfProcesses(): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const texts = pids.map((pid) => readFile(`/proc/${pid}/attr/current`, 'latin1').catch(() => ''));
  return (await Promise.all(texts)).map((text) => text.replace(/( \(\w+\))?[\0\n]*$/, ''));
}
