import { existsSync } from 'node:fs';
import test from 'ava';
import { execa } from 'execa';
import { ensureBootFiles } from '../../src/sandbox/domain/machine/boot-files.ts';
import { whyNoGuest } from '../../src/sandbox/domain/machine/kvm.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { long } from '../support/long.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

long('a guest that comes up is told from one that does not', async (t) => {
  t.timeout(200_000 * PATIENCE);
  const boot = await ensureBootFiles(state.paths);
  t.is(await whyNoGuest('tcg', boot, 120_000 * PATIENCE), undefined);
  t.regex((await whyNoGuest('tcg', boot, 50)) ?? '', /no answer within/);
  const broken = { ...boot, folder: state.beside };
  t.regex((await whyNoGuest('tcg', broken, 60_000)) ?? '', /a guest did not start/);
});

test('without KVM a machine is refused, and the doctor says the same', async (t) => {
  t.timeout(200_000 * PATIENCE);
  const doctor = await state.kiln(['doctor', 'machines', '--json']);
  const { checks } = JSON.parse(String(doctor.stdout));
  const [{ status, found }] = checks;
  if (status === 'ok') {
    t.true(existsSync('/dev/kvm'));
    return;
  }
  t.regex(found, /^no KVM: /);
  const run = await state.kiln(['run', '--isolation', 'vm', '-r', IMAGE, '--', 'true']);
  t.is(run.exitCode, 125);
  t.regex(String(run.stderr), /layer kvm is not in force/);
  t.regex(String(run.stderr), /--allow-missing kvm/);
  const cpus = await execa('grep', ['-cE', '^flags.*\\b(vmx|svm)\\b', '/proc/cpuinfo'], {
    reject: false,
  });
  // Processors without the extensions cannot have KVM: the doctor must not have said so.
  if (cpus.stdout === '0') t.is(status, 'warn');
});
