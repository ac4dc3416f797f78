import test from 'ava';
import { reasonLine } from '../../src/host/calls/system-error.ts';
import { type Lock, lockSchema } from '../../src/packages/repository/lock/lock.ts';

const LOCK: Lock = {
  format: 1,
  arch: 'x86_64',
  requested: ['@build', 'gcc'],
  repositories: [
    {
      id: 'base',
      source: { kind: 'metalink', url: 'https://example.org/metalink' },
      gpgcheck: true,
      gpgkey: ['/usr/share/keys/base'],
    },
  ],
  packages: ['b', 'a'].map((name, index) => ({
    nevra: `${name}-2:1-1.noarch`,
    name,
    epoch: 2,
    version: '1',
    release: '1',
    arch: 'noarch',
    digest: `sha256:${String(index).repeat(64)}`,
    size: 10 + index,
    location: `Packages/${name}.rpm`,
    repository: 'base',
  })),
};

test('an invalid lock is refused with the place of the mistake', (t) => {
  const refused = (lock: unknown) => {
    const { error } = lockSchema.safeParse(lock);
    return error === undefined ? 'taken' : reasonLine(error);
  };
  t.is(refused(LOCK), 'taken');
  t.regex(refused({ ...LOCK, format: 2 }), /format/);
  const [first] = LOCK.packages;
  const changed = (fields: object) => ({ ...LOCK, packages: [{ ...first!, ...fields }] });
  t.regex(refused(changed({ digest: 'md5:00' })), /packages\[0\]\.digest/);
  t.regex(refused(changed({ size: -1 })), /packages\[0\]\.size/);
  t.regex(refused(changed({ repository: 'other' })), /no repository other/);
});
