import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type CopyInItem, copyIn } from '../../src/artifacts/copy-in.ts';
import { createUserNamespace } from '../../src/host/process/user-namespace.ts';
import { BASE, bashIn, type SandboxTree, sandboxTree } from './sandbox-tree.ts';

/** The command's user in the sandbox, as the host knows it. */
const USER = { uid: BASE + 1000, gid: BASE + 1000 };

async function into(root: string, items: readonly CopyInItem[]) {
  const rootFd = openSync(root, 'r');
  try {
    return await copyIn({ rootFd, items, owner: USER });
  } finally {
    closeSync(rootFd);
  }
}

/** A folder `host` beside the tree, with what the script makes in it. */
function hostFiles(tree: SandboxTree, script: string): string {
  tree.bash(`mkdir ../host; cd ../host; ${script}`);
  return join(tree.root, '../host');
}

test('a tree arrives as cp -a would copy it, owned by the command’s user', async (t) => {
  const tree = sandboxTree(t);
  const host = hostFiles(
    tree,
    `mkdir -p src/deep src/empty; echo a > src/a; ln src/a src/deep/b; ln -s /etc/passwd src/abs
     ln -s ../a src/deep/up; printf x > $'src/bad\\xff'; truncate -s 5M src/hole; chmod 750 src/deep
     find src -exec touch -h -d '2010-01-01 00:00:00.123456789' {} +`,
  );
  tree.bash('mkdir -p opt');
  t.deepEqual(await into(tree.root, [{ source: `${host}/src`, target: '/opt' }]), []);
  const listing = String.raw`find . -printf '%P\0%y %m %s %T@ %n %b %l\0' | sort -z | od -An -c`;
  t.is(bashIn(join(tree.root, 'opt/src'), listing), bashIn(join(host, 'src'), listing));
  t.is(tree.bash(`find opt/src -printf '%U:%G\\n' | sort -u`), `${USER.uid}:${USER.gid}\n`);
});

test('where it goes follows docker cp', async (t) => {
  const tree = sandboxTree(t);
  const host = hostFiles(
    tree,
    'mkdir -p d/sub; echo 1 > f; echo 2 > d/x; echo 3 > d/sub/y; ln -s d l',
  );
  tree.bash('mkdir -p there/d; echo old > there/d/x; echo kept > there/d/z; ln -s f there/link');
  const items: [string, string][] = [
    ['f', '/new/dir/name'],
    ['f', '/slash/'],
    ['f', '/there'],
    ['d', '/there'],
    ['d', '/fresh'],
    ['d/.', '/content'],
    ['d/.', '/there'],
    ['l', '/linked'],
    ['d/.', '/'],
    ['f', '/there/link'],
  ];
  await into(
    tree.root,
    items.map(([source, target]) => ({ source: `${host}/${source}`, target })),
  );
  t.is(
    tree.bash(`find . -type f -printf '%P ' -exec cat {} \\; | sort`),
    `content/sub/y 3
content/x 2
fresh/sub/y 3
fresh/x 2
linked/sub/y 3
linked/x 2
new/dir/name 1
slash/f 1
sub/y 3
there/d/sub/y 3
there/d/x 2
there/d/z kept
there/f 1
there/link 1
there/sub/y 3
there/x 2
x 2
`,
  );
});

test('an image’s links cannot send a copy out of the sandbox', async (t) => {
  const tree = sandboxTree(t);
  const host = hostFiles(tree, 'mkdir -p t/lib; echo mine > f; echo lib > t/lib/l');
  tree.bash(`mkdir -p usr/lib ../outside; ln -s usr/lib lib; ln -s /usr abs
    ln -s ../../../../../../../../../../../..${tree.root}/../outside up; ln -s /proc/self/root magic`);
  await into(tree.root, [
    { source: `${host}/f`, target: '/lib/one' },
    { source: `${host}/f`, target: '/abs/lib/two' },
    { source: `${host}/t/.`, target: '/' },
  ]);
  t.is(tree.bash('cd usr/lib; echo *'), 'l one two\n');
  for (const target of ['/up/x', '/magic/x', '/up']) {
    const copying = into(tree.root, [{ source: `${host}/f`, target }]);
    await copying.catch((error: { code?: string }) => t.is(error.code, 'E_COPY_IN'));
  }
  t.is(tree.bash('find ../outside -mindepth 1'), '');
});

test('what cannot be copied is an error that says why', async (t) => {
  const tree = sandboxTree(t);
  const host = hostFiles(
    tree,
    'mkdir d; echo 1 > f; mkfifo pipe; mkfifo d/pipe; cp /bin/true d/su; chmod 4755 d/su',
  );
  tree.bash('mkdir -p dir/f; echo x > file');
  const cases: [string, string, RegExp][] = [
    ['nothing', '/x', /no such file/],
    ['pipe', '/x', /neither a file nor a directory/],
    ['f', 'relative', /not an absolute path/],
    ['f', '/a/../b', /"\.\."/],
    ['d', '/file', /not a directory/],
    ['f', '/file/x', /not a directory/],
    ['f', '/file/', /not a directory/],
    ['f', '/dir', /is a directory there/],
  ];
  for (const [source, target, message] of cases) {
    const copying = into(tree.root, [{ source: `${host}/${source}`, target }]);
    await t.throwsAsync(copying, { code: 'E_COPY_IN', message }, `${source}:${target}`);
  }
  const warnings = await into(tree.root, [{ source: `${host}/d`, target: '/ok' }]);
  t.deepEqual(
    warnings.map((w) => w.code),
    ['special-file', 'mode-bits-dropped'],
  );
  t.is(tree.bash('stat -c %a ok/su; ls ok'), '755\nsu\n');
});

/** A tmpfs mounted by a sandbox's root, in a user namespace: where the host's root is nobody. */
async function foreignMount(t: ExecutionContext, tree: SandboxTree): Promise<string> {
  const namespace = createUserNamespace([{ inside: 0, outside: BASE, count: 65536 }]);
  tree.bash('mkdir sandbox');
  const script = `mount -t tmpfs -o size=1m,mode=755 none ${tree.root}/sandbox && echo up && read`;
  const holder = spawn(
    'nsenter',
    [`--user=/proc/${process.pid}/fd/${namespace}`, 'unshare', '-m', 'bash', '-c', script],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  t.teardown(() => holder.stdin.end());
  await once(holder.stdout, 'data');
  closeSync(namespace);
  return `/proc/${holder.pid}/root${tree.root}/sandbox`;
}

test('files can be made in a file system that the sandbox mounted, up to its size', async (t) => {
  const tree = sandboxTree(t);
  const host = hostFiles(tree, 'mkdir -p d; echo 1 > d/f; ln -s f d/l; head -c 2M /dev/zero > big');
  const sandbox = await foreignMount(t, tree);
  await into(sandbox, [{ source: `${host}/d`, target: '/home/user/d' }]);
  t.is(
    bashIn(sandbox, `find home -printf '%P %U %G\\n' | sort`),
    ['', 'user', 'user/d', 'user/d/f', 'user/d/l']
      .map((path) => `${path} ${USER.uid} ${USER.gid}\n`)
      .join(''),
  );
  await t.throwsAsync(into(sandbox, [{ source: `${host}/big`, target: '/big' }]), {
    code: 'E_COPY_IN',
    message: /\/big cannot be written/,
  });
  t.is(process.geteuid?.(), 0);
  t.regex(bashIn('/', `grep CapEff /proc/${process.pid}/status`), /f{4,}/);
});
