import test from 'ava';
import type { KilnError } from '../../src/errors.ts';
import { type Lock, lockDigest, parseLock, serializeLock } from '../../src/repository/lock.ts';

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

test('a lock survives being written and read', (t) => {
  t.deepEqual(parseLock(serializeLock(LOCK), 'x'), LOCK);
});

test('equal locks give equal bytes, whatever the order of keys', (t) => {
  const reversed = JSON.parse(JSON.stringify(LOCK), (_, value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).reverse())
      : value,
  ) as Lock;
  t.not(JSON.stringify(reversed), JSON.stringify(LOCK));
  t.is(serializeLock(reversed), serializeLock(LOCK));
});

test('the digest is about what is installed, in which order', (t) => {
  const [first, second] = LOCK.packages;
  const elsewhere = { ...LOCK, repositories: [{ ...LOCK.repositories[0]!, gpgkey: ['/else'] }] };
  t.is(lockDigest(elsewhere), lockDigest(LOCK));
  t.not(lockDigest({ ...LOCK, packages: [second!, first!] }), lockDigest(LOCK));
  t.not(lockDigest({ ...LOCK, packages: [first!] }), lockDigest(LOCK));
  t.not(lockDigest({ ...LOCK, arch: 'aarch64' }), lockDigest(LOCK));
});

test('what is no lock is refused with the place of what is wrong', (t) => {
  const refused = (text: string) => {
    const error = t.throws<KilnError>(() => parseLock(text, 'my.lock'));
    t.is(error?.code, 'E_LOCK_INVALID');
    t.regex(error?.message ?? '', /my\.lock/);
    return error?.message ?? '';
  };
  t.regex(refused('{'), /not JSON/);
  t.regex(refused(JSON.stringify({ ...LOCK, format: 2 })), /format/);
  const [first] = LOCK.packages;
  const changed = (fields: object) =>
    JSON.stringify({ ...LOCK, packages: [{ ...first!, ...fields }] });
  t.regex(refused(changed({ digest: 'md5:00' })), /packages\[0\]\.digest/);
  t.regex(refused(changed({ size: -1 })), /packages\[0\]\.size/);
  t.regex(refused(changed({ repository: 'other' })), /no repository other/);
});
