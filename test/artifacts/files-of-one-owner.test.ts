import { spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { setXattr } from '../../src/host/calls/descriptor.ts';
import { bashIn, CHILD, sandboxTree } from './sandbox-tree.ts';

/** Of a default ACL that takes everything from the group and from others: linux/posix_acl_xattr.h. */
function strictAcl(): Buffer {
  const [version, any] = [2, 0xffffffff];
  const entries = [
    [0x01, 7, any],
    [0x04, 0, any],
    [0x20, 0, any],
  ] as const;
  const acl = Buffer.alloc(4 + entries.length * 8);
  acl.writeUInt32LE(version);
  for (const [index, [tag, permissions, id]] of entries.entries()) {
    acl.writeUInt16LE(tag, 4 + index * 8);
    acl.writeUInt16LE(permissions, 6 + index * 8);
    acl.writeUInt32LE(id, 8 + index * 8);
  }
  return acl;
}

for (const [what, prepare] of [
  ['an umask', () => undefined],
  ['a group', (out: string) => bashIn(out, 'chgrp 8765 .; chmod 2777 .')],
  [
    'a default ACL',
    (out: string) => {
      const fd = openSync(out, 'r');
      setXattr(fd, 'system.posix_acl_default', strictAcl());
      closeSync(fd);
    },
  ],
] as const) {
  test(`artifacts do not get ${what} that new files in the result folder get`, (t) => {
    const { root, out, bash } = sandboxTree(t);
    bash(`mkdir -m 777 dir ../out; echo 1 > dir/a; chmod 666 dir/a; echo 2 > b; chmod 640 b
      echo 3 > c; chmod 1604 c; chown -R 1234:1234 dir b c`);
    prepare(out);
    const umask = what === 'an umask' ? '077' : '022';
    const script = `umask ${umask}; exec "$@"`;
    const args = ['-c', script, 'sh', process.execPath, CHILD, root, out];
    const child = spawnSync('sh', args, { encoding: 'utf8' });
    t.is(child.status, 0, child.stderr);
    const show = `stat -c '%n %a %u:%g' dir dir/a b c`;
    t.is(bashIn(out, show), 'dir 777 0:0\ndir/a 666 0:0\nb 640 0:0\nc 1604 0:0\n');
    t.is(bashIn(out, 'cat dir/a b c'), bashIn(join(root), 'cat dir/a b c'));
  });
}

test('no file is opened before its type is known', (t) => {
  const { root, out, bash } = sandboxTree(t);
  bash('mkdir d; echo 1 > d/plain; ln d/plain d/also; mkdir ../out');
  const trace = ['-f', '-qq', '-e', 'trace=openat2', process.execPath, CHILD, root, out];
  const { status, stderr } = spawnSync('strace', trace, { encoding: 'utf8' });
  t.is(status, 0, stderr);
  const opened = stderr.split('\n').filter((line) => /"(plain|also)".*O_NONBLOCK/.test(line));
  t.deepEqual(opened, []);
  t.is(bashIn(out, 'cat d/plain d/also; stat -c %h d/plain'), '1\n1\n2\n');
});
