import test from 'ava';
import { statePaths } from '../../src/host/state/paths.ts';

test('a unix socket below the run directory fits in sun_path whatever KILN_STATE is', (t) => {
  const paths = statePaths({ KILN_STATE: `/very/${'long/'.repeat(60)}state` });
  t.true(`${paths.run}/parked/00000000-0000-0000-0000-000000000000/init.sock`.length < 108);
});

test('two state directories have two run directories', (t) => {
  t.not(statePaths({ KILN_STATE: '/a' }).run, statePaths({ KILN_STATE: '/b' }).run);
});
