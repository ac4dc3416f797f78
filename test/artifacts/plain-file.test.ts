import { spawn, spawnSync } from 'node:child_process';
import { closeSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { copyPlainFiles, GROUP } from '../../src/artifacts/plain-file.ts';
import { setXattr } from '../../src/kernel/xattr.ts';
import { bashIn, CHILD, PLACES, sandboxTree, withoutDevices } from './sandbox-tree.ts';

/** Copies files of one directory, byte strings, to another; the names of those that were copied. */
function copied(from: string, to: string, names: readonly string[]): string[] {
  const [source, target] = [openSync(from, 'r'), openSync(to, 'r')];
  try {
    const copies = copyPlainFiles({ from: source, to: target, names, birth: { modes: 0 } });
    return names.filter((_, index) => copies[index] !== undefined);
  } finally {
    closeSync(source);
    closeSync(target);
  }
}

test('plain files are copied, of all else nothing is made', (t) => {
  const { root, out, bash } = sandboxTree(t, withoutDevices(t));
  bash(`
    echo one > plain; : > empty; head -c 65536 /dev/urandom > largest; echo b > $'b\\xff'; chmod 0 empty
    head -c 65537 /dev/urandom > large; truncate -s 60000 hole; echo h > hard; ln hard link
    cp plain su; chmod 4755 su; ln -s plain soft; mkfifo fifo; mkdir dir; mknod null c 1 3
    echo new > there; echo m > mounted; mount --bind plain mounted; mkdir ../out; echo old > ../out/there`);
  t.teardown(() => bash('umount mounted'));
  const plain = ['plain', 'empty', 'largest', 'b\xff'];
  const others = ['large', 'hole', 'hard', 'link', 'su', 'soft', 'fifo', 'dir', 'null', 'mounted'];
  t.deepEqual(copied(root, out, [...others, ...plain, 'there', 'missing']), plain);
  t.is(bashIn(out, 'ls -A'), 'b\xff\nempty\nlargest\nplain\nthere\n');
  t.is(bashIn(out, 'cat there'), 'old\n');
  const show = `stat -c '%n %a %Y' empty plain largest b*; sha256sum empty plain largest b*`;
  t.is(bashIn(out, show), bash(show));
});

test('a file that changes while it is copied is left to the careful way', (t) => {
  const { root, out, bash } = sandboxTree(t, withoutDevices(t));
  bash('mkdir ../out');
  const names = Array.from({ length: GROUP }, (_, index) => String(index));
  bash(`for n in {0..${GROUP - 1}}; do printf %08d 0 > $n; done`);
  // Never longer or shorter: only its time tells.
  const script = `for (my $i = 1;; $i++) { for my $n (0..${GROUP - 1}) {
    open F, "+<", $n; printf F "%08d", $i; close F } }`;
  const child = spawn('perl', ['-e', script], { cwd: root, stdio: 'ignore' });
  t.teardown(() => child.kill('SIGKILL'));
  let [taken, left] = [0, 0];
  for (let round = 0; round < 2000 && (taken < 10 || left < 10); round++) {
    const whole = copied(root, out, names);
    t.deepEqual(bashIn(out, 'ls -A').split('\n').filter(Boolean).sort(), [...whole].sort());
    taken += whole.length;
    left += names.length - whole.length;
    rmSync(out, { recursive: true });
    bash('mkdir ../out');
  }
  t.true(taken >= 10 && left >= 10, `${taken} taken, ${left} left`);
});

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
  test(`${what} that new files in the result directory get is not the artifacts’`, (t) => {
    const { root, out, bash } = sandboxTree(t, withoutDevices(t));
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

for (const [where, parent] of PLACES) {
  test(`files are opened before it is known what they are only where there can be no device${where}`, (t) => {
    const { root, out, bash } = sandboxTree(t, parent(t));
    bash('mkdir d; echo 1 > d/plain; ln d/plain d/also; mkdir ../out');
    const trace = ['-f', '-qq', '-e', 'trace=openat2', process.execPath, CHILD, root, out];
    const { status, stderr } = spawnSync('strace', trace, { encoding: 'utf8' });
    t.is(status, 0, stderr);
    const opened = stderr.split('\n').filter((line) => /"(plain|also)".*O_NONBLOCK/.test(line));
    t.is(opened.length, where === ' (without devices)' ? 2 : 0, stderr);
    t.is(bashIn(out, 'cat d/plain d/also; stat -c %h d/plain'), '1\n1\n2\n');
  });
}
