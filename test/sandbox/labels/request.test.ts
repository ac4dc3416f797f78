import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { domainXml } from '../../../src/sandbox/domain/domain-xml.ts';
import { profileSet } from '../../../src/sandbox/labels/apparmor.ts';
import { measuredLabel } from '../../../src/sandbox/labels/module.ts';
import { parseLabelRequest } from '../../../src/sandbox/policy/label-request.ts';
import { busyboxState, IMAGE } from '../../support/busybox-state.ts';

test('labels are written as virt-sandbox had them', (t) => {
  t.deepEqual(parseLabelRequest('dynamic'), { kind: 'dynamic' });
  t.deepEqual(parseLabelRequest('inherit'), { kind: 'inherit' });
  const label = 'system_u:system_r:svirt_t:s0:c1,c2';
  t.deepEqual(parseLabelRequest(`static:${label}`), { kind: 'static', label });
  t.deepEqual(parseLabelRequest(`dynamic:${label}`), { kind: 'dynamic', label });
  for (const text of ['', 'static', 'static:', 'dynamic:', 'static:a b', 'static:a\nb', 'other']) {
    t.throws(() => parseLabelRequest(text), { code: 'E_ARGUMENT' }, text);
  }
});

test('libvirt’s schema accepts the domain of a labelled sandbox', async (t) => {
  const options = {
    name: 'kiln-test',
    uuid: '6f1f3c0e-9c5c-4a5e-8d0a-0e8f6f2b7a11',
    skeleton: '/srv',
    socketDirectory: '/srv',
    range: { base: 0x7001_0000, count: 65536 },
    network: 'private',
  } as const;
  const context = 'system_u:system_r:kiln_init_t:s0:c1,c2';
  const labelled = domainXml({ ...options, context });
  const folder = await mkdtemp(join(tmpdir(), 'kiln-xml-'));
  t.teardown(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, 'domain.xml'), labelled);
  const { stderr } = await execa('virt-xml-validate', [join(folder, 'domain.xml'), 'domain']);
  t.regex(stderr, /validates/);
  t.true(labelled.includes(`<label>${context}</label>`));
  t.false(domainXml(options).includes('seclabel'));
});

test('apparmor_parser accepts the profiles, whose names tell their content', async (t) => {
  const plain = profileSet();
  const other = profileSet('my-profile');
  t.not(plain.init, other.init);
  for (const { text, init, command, nested } of [plain, other]) {
    const { stdout } = await execa('apparmor_parser', ['--names', '--skip-kernel-load'], {
      input: text,
    });
    t.deepEqual(stdout.split('\n').sort(), [init, command, nested].sort());
  }
});

test('a label other than the planned one is an error', (t) => {
  const planned = { module: 'apparmor', label: 'kiln-sandbox-1' } as const;
  t.deepEqual(measuredLabel('kiln-sandbox-1 (enforce)', planned), { ...planned, enforcing: true });
  for (const found of [
    'unconfined',
    'kiln-sandbox-1 (complain)',
    'kiln-sandbox-2 (enforce)',
    undefined,
  ]) {
    t.throws(() => measuredLabel(found, planned), { code: 'E_LAYER_MISSING' }, found);
  }
  const context = { module: 'selinux', label: 'system_u:system_r:kiln_t:s0:c1,c2' } as const;
  t.throws(() => measuredLabel('system_u:system_r:kiln_t:s0:c1,c3', context), {
    code: 'E_LAYER_MISSING',
  });
});

test('a label that this host cannot give is refused, and leaves nothing', async (t) => {
  await using state = await busyboxState();
  for (const label of ['dynamic', 'static:x_u:x_r:x_t:s0', 'inherit']) {
    const { exitCode, stderr } = await state.kiln([
      'run',
      '-r',
      IMAGE,
      '--label',
      label,
      '--',
      'true',
    ]);
    t.is(exitCode, 125, label);
    t.regex(String(stderr), /neither SELinux nor AppArmor/);
  }
  const { exitCode, stderr } = await state.kiln([
    ...['run', '-r', IMAGE, '--label', 'none', '--bind', `${state.paths.root}:/s:ro,Z`, '--json'],
    ...['--', 'test', '-d', '/s/store'],
  ]);
  t.is(exitCode, 0, String(stderr));
  const result = JSON.parse(String(stderr).trim().split('\n').at(-1) ?? '');
  t.is(result.policy.label, null);
  const { stdout } = await state.kiln(['ps', '--json']);
  t.deepEqual(JSON.parse(String(stdout)), []);
});
