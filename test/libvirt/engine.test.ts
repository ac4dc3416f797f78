import test from 'ava';
import { choosesMachines, namesLibvirt, pickEngine } from '../../src/host/libvirt/pick-engine.ts';
import { statePaths } from '../../src/host/state/paths.ts';

const paths = statePaths({ KILN_STATE: '/var/tmp/kiln-engine-test' });

test('without KILN_URI the engine is the embedded one of this state folder', (t) => {
  for (const env of [{}, { KILN_URI: '' }]) {
    const engine = pickEngine(paths, env);
    t.is(engine.kind, 'embedded');
    t.is(engine.uri, `lxc+unix:///system?socket=${paths.run}/libvirt/libvirt-sock`);
  }
});

test('KILN_URI can name a local libvirt', (t) => {
  for (const uri of ['lxc:///system', 'lxc:///', 'lxc+unix:///system?socket=/run/x/libvirt-sock']) {
    t.deepEqual(pickEngine(paths, { KILN_URI: uri }), { kind: 'system', uri });
  }
});

test('KILN_URI of machines leaves containers to the embedded libvirt, and the other way round', (t) => {
  const uri = 'qemu:///system';
  t.deepEqual(pickEngine(paths, { KILN_URI: uri }, 'qemu'), { kind: 'system', uri });
  t.deepEqual(pickEngine(paths, { KILN_URI: uri }, 'lxc'), pickEngine(paths, {}, 'lxc'));
  t.throws(() => pickEngine(paths, { KILN_URI: 'lxc:///system' }, 'qemu'), {
    code: 'E_LIBVIRT_URI',
    message: /for containers/,
  });
});

test('a remote libvirt is refused', (t) => {
  for (const uri of [
    'lxc+ssh://host/system',
    'lxc+ssh:///system',
    'lxc+tcp://127.0.0.1/system',
    'lxc+tls://host/',
    'lxc://host/system',
    'lxc+libssh2://root@host/system',
    'lxc+ext:///system?command=nc',
    'qemu+ssh://host/system',
  ]) {
    t.throws(() => pickEngine(paths, { KILN_URI: uri }), {
      code: 'E_LIBVIRT_REMOTE',
      message: /remote libvirt/,
    });
  }
});

test('KILN_URI of a session’s machines chooses machines of kiln’s own libvirt', (t) => {
  for (const uri of ['qemu:///session', 'qemu+unix:///session', 'qemu:/session']) {
    const env = { KILN_URI: uri };
    for (const driver of ['qemu', 'lxc'] as const)
      t.deepEqual(pickEngine(paths, env, driver), pickEngine(paths, {}, driver));
    t.true(choosesMachines(env));
    t.false(namesLibvirt(env));
  }
  t.true(namesLibvirt({ KILN_URI: 'qemu:///system' }));
});

test('a driver other than lxc and qemu is refused', (t) => {
  for (const uri of ['test:///default', 'xen:///', 'nonsense', '/run/libvirt']) {
    t.throws(() => pickEngine(paths, { KILN_URI: uri }), { code: 'E_LIBVIRT_URI' });
  }
});
