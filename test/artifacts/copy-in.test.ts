/** Files that come into a sandbox, made by a process of its own (src/guest/unpack.c). */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { sendFiles } from '../../src/artifacts/copy-in.ts';
import type { Warning } from '../../src/artifacts/warning.ts';
import { below, ownPath } from '../../src/host/files/held.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { type Kiln, type OpenOptions, type OpenSandbox, openKiln } from '../support/kiln.ts';
import { bashIn } from './sandbox-tree.ts';

const test = anyTest as TestFn<{ readonly state: BusyboxState; readonly kiln: Kiln }>;

test.before(async (t) => {
  const state = await busyboxState();
  t.context = { state, kiln: openKiln({ env: state.env }) };
});
test.after.always(async ({ context }) => {
  await context.kiln[Symbol.asyncDispose]();
  await context.state[Symbol.asyncDispose]();
});

interface Tree extends AsyncDisposable {
  readonly sandbox: OpenSandbox;
  /** The sandbox's root, as this host sees it. */
  readonly root: string;
  /** A folder of this host's with what the script makes in it. */
  readonly host: string;
  /** Runs a script as root of the sandbox. */
  within(script: string): string;
  /** Copies SRC of the host's folder to DST, one pair after the other. */
  into(...items: readonly (readonly [string, string])[]): Promise<Warning[]>;
}

async function tree(
  t: ExecutionContext<{ readonly kiln: Kiln }>,
  script: string,
  options: Partial<OpenOptions> = {},
): Promise<Tree> {
  const host = mkdtempSync(join(tmpdir(), 'kiln-copy-in-'));
  t.teardown(() => rmSync(host, { recursive: true, force: true }));
  bashIn(host, script);
  const sandbox = await t.context.kiln.open({ image: IMAGE, ...options });
  const { initPid } = sandbox.planned;
  const enter = ['-t', String(initPid), '-U', '-m', '-S', '0', '-G', '0', '/bin/sh', '-ec'];
  return {
    ...{ sandbox, host, root: `/proc/${initPid}/root` },
    within: (inside) =>
      execFileSync('nsenter', [...enter, `cd /; ${inside}`], {
        encoding: 'latin1',
        env: { PATH: `${process.env.PATH}:/bin` },
      }),
    into: async (...items) => {
      const warnings: Warning[] = [];
      const copies = items.map(([source, target]) => ({
        source: below(ownPath(host), source),
        target,
      }));
      await sandbox.planned.tree.copyIn(copies, (warning) => warnings.push(warning));
      return warnings;
    },
    [Symbol.asyncDispose]: () => sandbox.close(),
  };
}

test('a tree is copied in as with cp -a, owned by the command’s user', async (t) => {
  await using to = await tree(
    t,
    `mkdir -p src/deep src/empty; echo a > src/a; ln src/a src/deep/b; ln -s /etc/passwd src/abs
     ln -s ../a src/deep/up; printf x > $'src/bad\\xff'; truncate -s 5M src/hole; chmod 750 src/deep
     truncate -s 3M src/both; printf end >> src/both; head -c 700000 /dev/urandom > src/large
     find src -exec touch -h -d '2010-01-01 00:00:00.123456789' {} +`,
  );
  to.within('mkdir -p opt');
  t.deepEqual(await to.into(['src', '/opt']), []);
  const listing = String.raw`find . -type d -printf '%P\0%m %T@\0' | sort -z | od -An -c
    find . ! -type d -printf '%P\0%y %m %s %T@ %n %l\0' | sort -z | od -An -c; cat a both large | sha256sum`;
  const copy = join(to.root, 'opt/src');
  t.is(bashIn(copy, listing), bashIn(join(to.host, 'src'), listing));
  t.is(bashIn(copy, 'stat -c %b hole'), '0\n');
  const owner = to.sandbox.facts.uidMap[1] + 1000;
  t.is(bashIn(copy, `find . -printf '%U:%G\\n' | sort -u`), `${owner}:${owner}\n`);
});

test('a file that disappears while its folder is copied is reported as such', async (t) => {
  const source = mkdtempSync(join(tmpdir(), 'kiln-copy-in-'));
  t.teardown(() => rmSync(source, { recursive: true, force: true }));
  const file = join(source, 'going');
  writeFileSync(file, 'x');
  let sent = 0;
  // The place, then the folder, whose entries have been listed by then.
  const send = async () => {
    if (++sent === 2) rmSync(file);
  };
  await t.throwsAsync(sendFiles({ source: ownPath(source), target: '/tmp' }, send, {}), {
    code: 'E_COPY_IN',
    message: /going" was gone before it could be read$/,
  });
});

test('destinations resolve as with docker cp', async (t) => {
  await using to = await tree(
    t,
    'mkdir -p d/sub; echo 1 > f; echo 2 > d/x; echo 3 > d/sub/y; ln -s d l',
  );
  to.within('mkdir -p there/d; echo old > there/d/x; echo kept > there/d/z; ln -s f there/link');
  await to.into(
    ...(
      [
        ...[
          ['f', '/new/dir/name'],
          ['f', '/slash/'],
          ['f', '/there'],
          ['d', '/there'],
        ],
        ...[
          ['d', '/fresh'],
          ['d/.', '/content'],
          ['d/.', '/there'],
          ['l', '/linked'],
        ],
        ...[
          ['d/.', '/'],
          ['f', '/there/link'],
          ['f', '/into/./dots/'],
        ],
      ] as [string, string][]
    ).map(([source, target]) => [source, target] as const),
  );
  const places = 'content fresh linked new slash sub there x into';
  t.is(
    bashIn(to.root, `find ${places} -type f -printf '%p ' -exec cat {} \\; | LC_ALL=C sort`),
    `content/sub/y 3
content/x 2
fresh/sub/y 3
fresh/x 2
into/dots/f 1
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

test('links of the image resolve as they do in the sandbox', async (t) => {
  await using to = await tree(t, 'mkdir -p t/lib outside; echo mine > f; echo lib > t/lib/l');
  to.within(`mkdir -p usr/lib; ln -s usr/lib lib; ln -s /usr abs; ln -s /proc/self/root magic
    ln -s ../../../../../../../../../../../..${to.host}/outside up`);
  await to.into(['f', '/lib/one'], ['f', '/abs/lib/two'], ['t/.', '/']);
  t.is(bashIn(to.root, 'cd usr/lib; echo *'), 'l one two\n');
  for (const target of ['/up/x', '/magic/x', '/up']) {
    await to.into(['f', target]).catch((error) => t.is(error.code, 'E_COPY_IN'));
  }
  t.deepEqual(bashIn(join(to.host, 'outside'), 'find . -mindepth 1'), '');
});

test('behind a link of the command’s user, only that user’s rights count', async (t) => {
  await using to = await tree(
    t,
    'mkdir -p d/way e/own; echo new > f; echo new > d/way/x; cp f e/own',
  );
  to.within(`mkdir -p safe/in tmp/own tmp/deep; echo old > safe/file; echo old > safe/open
    chmod 600 safe/file; chmod 666 safe/open; ln -s /safe tmp/way; ln -s /tmp/own tmp/mine
    ln -s way/in tmp/deep/chain; ln -s /tmp/way tmp/deep/way; ln -s /safe roots
    chown 1000:1000 tmp/own tmp/deep; chown -h 1000:1000 tmp/way tmp/mine tmp/deep/*`);
  for (const [source, target] of [
    ['f', '/tmp/way/f'],
    ['f', '/tmp/way/in/'],
    ['f', '/tmp/deep/chain'],
    ['f', '/tmp/deep/way/in/f'],
    ['d', '/tmp/way'],
    ['d/.', '/tmp'],
    ['d/.', '/tmp/deep'],
  ] as const) {
    const message = /: "\/tmp\/.*where the command’s user may not write/;
    await t.throwsAsync(to.into([source, target]), { code: 'E_COPY_IN', message }, target);
  }
  t.is(to.within('cd safe; find . -type f | sort; cat file open'), './file\n./open\nold\nold\n');
  // What the user may do itself, and what a link of root's leads to.
  await to.into(['f', '/tmp/mine/f'], ['e/.', '/tmp'], ['f', '/roots/f'], ['f', '/safe/in/']);
  t.is(to.within('cat tmp/own/f safe/f safe/in/f'), 'new\nnew\nnew\n');
});

test('a chain of links is an error if its targets are too long together', async (t) => {
  await using to = await tree(t, 'echo mine > f');
  // Three of them need more than two paths' worth of room.
  to.within(`long=$(printf '/.%.0s' $(seq 2000)); ln -s "b$long" a; ln -s "c$long" b; ln -s "d$long" c
    mkdir d`);
  await t.throwsAsync(to.into(['f', '/a/f']), { code: 'E_COPY_IN', message: /"\/a" is too long/ });
});

test('a source that cannot be copied is an error that says why', async (t) => {
  await using to = await tree(
    t,
    `mkdir d; echo 1 > f; mkfifo pipe; mkfifo d/pipe; cp /bin/true d/su; chmod 4755 d/su
     head -c 2M /dev/zero > big`,
    { tmpfs: [{ target: '/small', size: 1 << 20 }] },
  );
  to.within('mkdir -p dir/f; echo x > file');
  const cases: [string, string, RegExp][] = [
    ['nothing', '/x', /no such file/],
    ['pipe', '/x', /neither a file nor a folder/],
    ['f', 'relative', /not an absolute path/],
    ['f', '/a/../b', /"\.\."/],
    ['d', '/file', /"\/file" is not a folder/],
    ['f', '/file/x', /not a folder/],
    ['f', '/file/', /not a folder/],
    ['f', '/dir', /"\/dir\/f" is a folder there/],
    ['big', '/small/', /"\/small\/big" cannot be written/],
  ];
  for (const [source, target, message] of cases) {
    const copying = to.into([source, target]);
    await t.throwsAsync(copying, { code: 'E_COPY_IN', message }, `${source}:${target}`);
  }
  const warnings = await to.into(['d', '/ok']);
  t.deepEqual(
    warnings.map((w) => w.code),
    ['special-file', 'mode-bits-dropped'],
  );
  t.is(bashIn(to.root, 'stat -c %a ok/su; ls ok'), '755\nsu\n');
});

/** Bytes that the memory controller counts for a process: memory.current, on v1 memory.usage_in_bytes. */
function memoryOf(pid: number | 'self'): number {
  const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').trim().split('\n');
  const files = lines.flatMap((line) => {
    const [, controllers = '', group = '/'] = line.split(':');
    if (controllers === 'memory') return [`/sys/fs/cgroup/memory${group}/memory.usage_in_bytes`];
    return controllers === '' ? [`/sys/fs/cgroup${group}/memory.current`] : [];
  });
  for (const file of files) {
    // Controllers may be above the group of a process.
    for (
      let folder = dirname(file);
      folder.length > '/sys/fs/cgroup'.length;
      folder = dirname(folder)
    ) {
      const counted = join(folder, file.slice(file.lastIndexOf('/') + 1));
      if (existsSync(counted)) return Number(readFileSync(counted, 'utf8'));
    }
  }
  throw new Error(`no memory controller counts process ${pid}`);
}

test('copied-in files count as the sandbox’s memory, and obey its limit', async (t) => {
  const MiB = 2 ** 20;
  await using to = await tree(
    t,
    'head -c 48M /dev/urandom > large; head -c 200M /dev/zero > huge',
    {
      limits: { memory: 128 * MiB },
    },
  );
  const { planned } = to.sandbox;
  const counted = () => memoryOf(planned.initPid);
  const before = counted();
  await to.into(['large', '/tmp/large']);
  const copied = counted() - before;
  t.true(copied > 44 * MiB && copied < 80 * MiB, `${copied} bytes`);
  const bytes = Buffer.alloc(24 * MiB, 'x');
  await planned.tree.put({ path: '/tmp/new/written', bytes, append: false, mode: 0o640 });
  const written = counted() - before - copied;
  t.true(written > 20 * MiB && written < 40 * MiB, `${written} bytes`);
  t.is(bashIn(to.root, 'stat -c "%a %s" tmp/new/written'), `640 ${bytes.length}\n`);
  // The process that writes is the sandbox's own, and ends by the sandbox's limit.
  await t.throwsAsync(to.into(['huge', '/tmp/huge']), { code: 'E_COPY_IN', message: /SIGKILL/ });
  t.true((planned.ground.usage().oomKills ?? 0) > 0);
});
