/** What a configuration of mock's may not give a user, whoever wrote it. */
import test from 'ava';
import { refuseRoots } from '../../src/jobs/mock/session.ts';

const NOTHING = { root: 'fedora', network: false, sign: undefined, binds: [] };
const BIND = { source: '/etc', target: '/mnt', readonly: true };

const GIVEN: [what: string, given: Partial<Parameters<typeof refuseRoots>[0]>][] = [
  ['the host’s network', { network: true }],
  ['a key of root’s', { sign: { name: 'me', home: undefined } }],
  ['files of the host’s', { binds: [BIND] }],
];

for (const [what, given] of GIVEN) {
  test(`a configuration with ${what} is not for users`, (t) => {
    t.notThrows(() => refuseRoots(NOTHING));
    const ask = () => refuseRoots({ ...NOTHING, ...given });
    t.is((t.throws(ask) as { code?: string }).code, 'E_FORBIDDEN');
  });
}
