import { spawnSync } from 'node:child_process';
import { closeSync, readdirSync, readFileSync } from 'node:fs';
import test from 'ava';
import { createUserNamespace } from '../../src/host/process/user-namespace.ts';

test.serial('a program that enters the namespace has the mapped ids', (t) => {
  const fd = createUserNamespace([
    { inside: 0, outside: 1879048192, count: 1000 },
    { inside: 5000, outside: 0, count: 1 },
  ]);
  try {
    const { stdout } = spawnSync(
      'nsenter',
      ['--user=/proc/self/fd/3', 'cat', '/proc/self/uid_map', '/proc/self/gid_map'],
      { stdio: ['ignore', 'pipe', 'inherit', fd], encoding: 'utf8' },
    );
    const lines = stdout
      .trimEnd()
      .split('\n')
      .map((line) => line.trim().split(/\s+/).map(Number));
    const expected = [
      [0, 1879048192, 1000],
      [5000, 0, 1],
    ];
    t.deepEqual(lines, [...expected, ...expected]);
  } finally {
    closeSync(fd);
  }
});

test.serial('making a namespace leaves no process and no descriptor', (t) => {
  const count = () => [
    readdirSync('/proc/self/fd').length,
    readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim(),
  ];
  const before = count();
  for (let i = 0; i < 20; i += 1) {
    closeSync(createUserNamespace([{ inside: 0, outside: 1879048192, count: 65536 }]));
  }
  t.deepEqual(count(), before);
});

test.serial('a map that the kernel refuses is an error, and leaves nothing', (t) => {
  const twice = [
    { inside: 0, outside: 1879048192, count: 10 },
    { inside: 5, outside: 1879048192, count: 10 },
  ];
  t.throws(() => createUserNamespace(twice), { message: 'make a user namespace: EINVAL' });
  t.is(readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim(), '');
});
