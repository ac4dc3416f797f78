/** A bind with `cow`: what a command writes lies in a layer, until its caller looks at it and takes it. */
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, IMAGE, MAIN } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { long } from '../support/long.ts';

interface World {
  readonly folder: string;
}
const test = anyTest as TestFn<World>;

let state: BusyboxState;
let made = 0;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(() => state[Symbol.asyncDispose]());
test.beforeEach((t) => {
  const folder = join(state.beside, `folder${made++}`);
  mkdirSync(join(folder, 'sub/deep'), { recursive: true });
  mkdirSync(join(folder, 'empty'));
  writeFileSync(join(folder, 'a'), 'one\ntwo\nthree\n');
  writeFileSync(join(folder, 'b'), 'b\n');
  writeFileSync(join(folder, 'sub/c'), 'c\n');
  writeFileSync(join(folder, 'sub/deep/d'), 'd\n');
  writeFileSync(join(folder, '.envrc'), 'export A=1\n');
  symlinkSync('a', join(folder, 'link'));
  t.context = { folder };
});

/** All that a folder is: names, kinds, modes, owners, times, links, content. */
async function whole(folder: string): Promise<string> {
  const listed = await execa('find', [folder, '-printf', '%P %y %m %U:%G %s %T@ %i %l\\n']);
  const sums = await execa('find', [folder, '-type', 'f', '-exec', 'sha256sum', '{}', '+']);
  return [listed.stdout, sums.stdout].map((text) => text.split('\n').sort().join('\n')).join('\n');
}

/** The image has no links for these. */
const TOOLS =
  'for tool in mv chmod mkfifo stat nc; do eval "$tool() { busybox $tool \\"\\$@\\"; }"; done;';

async function run(folder: string, script: string, ...options: readonly string[]) {
  const words = ['run', '-r', IMAGE, '--bind', `${folder}:/src:cow`, '--workdir', '/src'];
  return await kiln(...words, ...options, '--', 'sh', '-c', `${TOOLS} ${script}`);
}

async function kiln(...words: readonly string[]) {
  const ran = await state.kiln(words);
  return { code: ran.exitCode, out: String(ran.stdout), said: String(ran.stderr) };
}

/** The id of a sandbox in which a command has changed the folder. */
async function kept(t: ExecutionContext, folder: string, script: string): Promise<string> {
  const { code, said } = await run(folder, script, '--keep', '--user', 'root');
  t.is(code, 0, said);
  return /kept as (\w+)/.exec(said)?.[1] ?? '';
}

/** Without owners and times: what a command that wrote there itself would have left. */
async function content(folder: string): Promise<string> {
  const listed = await execa('find', [folder, '-printf', '%P %y %m %l\\0']);
  const files = await execa('find', [folder, '-type', 'f', '-exec', 'sha256sum', '-z', '{}', '+']);
  const lines = `${listed.stdout}${files.stdout.replaceAll(folder, '')}`.split('\0');
  return lines.sort().join('\n');
}

const WRITES =
  'echo four >> a; rm b; rm -r sub; mkdir sub; echo n > sub/new; mv link other; chmod 700 empty';

test.serial(
  'a command may write a folder bound with cow, and the folder stays as it is',
  async (t) => {
    const { folder } = t.context;
    const before = await whole(folder);
    const { code, out, said } = await run(folder, `${WRITES}; cat a; ls -A sub`);
    t.is(code, 0, said);
    t.is(out, 'one\ntwo\nthree\nfour\nnew');
    t.is(await whole(folder), before);
  },
);

test.serial('a run says that what it wrote is lost, unless something keeps it', async (t) => {
  const { folder } = t.context;
  t.regex(
    (await run(folder, 'echo 1 >> a')).said,
    /"\/src" is bound with cow.*--keep.*\[changes-lost\]/,
  );
  t.is((await run(folder, 'cat a')).said, '');
  const results = ['--artifact', 'a', '--resultdir', `${folder}-results`];
  t.notRegex((await run(folder, 'echo 1 >> a', ...results)).said, /changes-lost/);
  t.notRegex((await run(folder, 'echo 1 >> a', '--keep=1m')).said, /changes-lost/);
});

test.serial('artifacts come out of a folder bound with cow', async (t) => {
  const { folder } = t.context;
  const before = await whole(folder);
  const to = `${folder}-results`;
  const options = ['--artifact', 'sub/new', '--artifact', 'a', '--resultdir', to];
  const { code, said } = await run(folder, WRITES, ...options);
  t.is(code, 0, said);
  t.is(readFileSync(join(to, 'new'), 'utf8'), 'n\n');
  t.is(readFileSync(join(to, 'a'), 'utf8'), 'one\ntwo\nthree\nfour\n');
  t.is(await whole(folder), before);
});

test.serial(
  'only a folder of a sandbox can be bound with cow, and not with ro as well',
  async (t) => {
    const { folder } = t.context;
    const file = await kiln('run', '-r', IMAGE, '--bind', `${folder}/a:/a:cow`, '--', 'true');
    t.regex(file.said, /cow is for folders \[E_BIND\]/);
    const both = await kiln('run', '-r', IMAGE, '--bind', `${folder}:/a:ro,cow`, '--', 'true');
    t.regex(both.said, /one of ro, rw and cow/);
    const service = await kiln('service', 'create', '--mount', `${folder}:/a:cow`, 'x', '--', 'a');
    t.regex(service.said, /cow is for sandboxes that are kept/);
  },
);

test.serial('kiln diff shows what was added, changed and removed, and nothing else', async (t) => {
  const { folder } = t.context;
  const id = await kept(
    t,
    folder,
    `${WRITES}; touch sub; cat .envrc > /tmp/x; echo 1 >> .envrc; mkfifo fifo; mkdir "new
A line"; busybox rm /bin/wc; echo x > /etc/new`,
  );
  const before = await whole(folder);
  const { code, out, said } = await kiln('diff', id, '/src');
  t.is(code, 0, said);
  t.deepEqual(out.split('\n'), [
    'M .envrc (your own tools may run it)',
    'M a',
    'D b',
    'M empty/',
    'A fifo (fifo)',
    'D link',
    'A "new\\nA line"/',
    'A other -> a',
    'D sub/c',
    'D sub/deep/',
    'A sub/new',
  ]);
  const json = JSON.parse((await kiln('diff', '--json', id, '/src/', 'a', '/src/sub')).out);
  t.like(json, { sandbox: id, folder, truncated: false });
  const [first, ...rest] = json.changes;
  t.deepEqual(first, { path: 'a', change: 'changed', kind: 'file', size: 19, mode: '0644' });
  t.deepEqual(
    rest.map(({ path }: { path: string }) => path),
    ['sub/c', 'sub/deep', 'sub/new'],
  );
  t.is((await kiln('diff', id)).out, 'D bin/wc\nA etc/new');
  t.is(await whole(folder), before);
  t.regex((await kiln('diff', id, '/nowhere')).said, /no folder bound with cow at \/nowhere/);
});

test.serial('a file with a new time and the same content does not count as changed', async (t) => {
  const { folder } = t.context;
  const id = await kept(t, folder, 'touch a b sub; echo b > b; chmod 600 sub/c; chmod 644 sub/c');
  t.deepEqual(await kiln('diff', id, '/src'), { code: 0, out: '', said: '' });
});

test.serial('kiln apply leaves in the folder what the command would have left there', async (t) => {
  const { folder } = t.context;
  const script = `${WRITES}; mkdir -p x/y; echo z > x/y/z; chmod 755 x/y/z; rm -r empty; echo f > empty; rm other; mkdir other; echo o > other/o; mv a "a b
c"; cp sub/new "$(printf '\\377')"`;
  const twin = `${folder}-twin`;
  cpSync(folder, twin, { recursive: true, verbatimSymlinks: true });
  const direct = await kiln(
    ...['run', '-r', IMAGE, '--user', 'root', '--workdir', '/src', '--bind', `${twin}:/src`],
    ...['--', 'sh', '-c', `${TOOLS} ${script}`],
  );
  t.is(direct.code, 0, direct.said);
  const id = await kept(t, folder, script);
  const { code, said } = await kiln('apply', id, '/src');
  t.is(code, 0, said);
  t.is(await content(folder), await content(twin));
  t.is((await kiln('diff', id, '/src')).out, '');
});

test.serial('a patch of kiln diff gives git the files that the command made', async (t) => {
  const { folder } = t.context;
  writeFileSync(
    join(folder, 'long'),
    Array.from({ length: 400 }, (_, at) => `line ${at}\n`).join(''),
  );
  const script = `echo four >> a; rm b sub/c; mv link other; echo new > "$(printf 'n\\351w "x"\\ny')"; mkdir d;
    printf 'no end' > d/e; chmod 755 d/e .envrc; busybox sed -i 's/line 1\\(.\\)$/LINE \\1/; /line 200/d' long;
    rm sub/deep/d; ln -s x sub/deep/d; : > nothing; printf '\\000\\001' > binary; rm binary`;
  const id = await kept(t, folder, script);
  const patch = await state.kiln(['diff', '--patch', id, '/src'], {
    encoding: 'buffer',
    stripFinalNewline: false,
  });
  t.is(patch.exitCode, 0, String(patch.stderr));
  const twin = `${folder}-twin`;
  cpSync(folder, twin, { recursive: true, verbatimSymlinks: true });
  const applied = await execa('git', ['apply', '-'], {
    cwd: twin,
    input: patch.stdout as unknown as Uint8Array,
    reject: false,
  });
  t.is(applied.exitCode, 0, `${applied.stderr}\n${patch.stdout}`);
  const taken = await kiln(
    'apply',
    id,
    '/src',
    ...['.envrc', 'a', 'b', 'sub', 'other', 'link', 'd', 'long', 'nothing'],
  );
  t.is(taken.code, 0, taken.said);
  t.is((await kiln('apply', id, '/src')).code, 0);
  t.is(await content(twin), await content(folder));
});

test.serial('a patch names binary files and folders that were removed', async (t) => {
  const { folder } = t.context;
  const id = await kept(t, folder, `printf '\\000' > binary; rm -r sub`);
  const { out } = await kiln('diff', '-p', id, '/src');
  t.regex(out, /Binary files \/dev\/null and b\/binary differ/);
  t.regex(out, /^# a\/sub was removed with all that is in it$/m);
});

test.serial('kiln apply takes the named paths only, with the folders that they need', async (t) => {
  const { folder } = t.context;
  const id = await kept(t, folder, `${WRITES}; mkdir -p x/y; echo 1 > x/y/one; echo 2 > x/two`);
  const taken = await kiln('apply', id, '/src', 'x/y/one', 'b');
  t.is(taken.code, 0, taken.said);
  t.deepEqual(readdirSync(join(folder, 'x')), ['y']);
  t.false(existsSync(join(folder, 'b')));
  t.is(readFileSync(join(folder, 'a'), 'utf8'), 'one\ntwo\nthree\n');
  t.regex((await kiln('apply', id, '/src', 'x/none')).said, /nothing has changed at x\/none/);
  t.regex((await kiln('apply', id, '/src', '../b')).said, /no path below/);
});

test.serial(
  'kiln apply names and skips files that were changed in the folder meanwhile',
  async (t) => {
    const { folder } = t.context;
    const id = await kept(
      t,
      folder,
      'for f in a b sub/c; do echo in >> $f; done; rm -r sub/deep; echo n > new',
    );
    writeFileSync(join(folder, 'a'), 'mine\n');
    rmSync(join(folder, 'b'));
    writeFileSync(join(folder, 'sub/deep/mine'), 'mine\n');
    const { code, said } = await kiln('apply', id, '/src');
    t.is(code, 125);
    t.regex(said, /left alone: a: it has changed/);
    t.regex(said, /left alone: b: it may have been removed/);
    t.regex(said, /left alone: sub\/deep: it has changed|left alone: sub\/deep: what is in it/);
    t.regex(said, /3 changes are not in .*\[E_CONFLICT\]/);
    t.is(readFileSync(join(folder, 'a'), 'utf8'), 'mine\n');
    t.is(readFileSync(join(folder, 'sub/c'), 'utf8'), 'c\nin\n');
    t.is(readFileSync(join(folder, 'new'), 'utf8'), 'n\n');
    t.false(existsSync(join(folder, 'b')));
    t.deepEqual(readdirSync(join(folder, 'sub/deep')).sort(), ['d', 'mine']);
    const forced = await kiln('apply', '--force', id, '/src');
    t.is(forced.code, 0, forced.said);
    t.is(readFileSync(join(folder, 'a'), 'utf8'), 'one\ntwo\nthree\nin\n');
    t.is(readFileSync(join(folder, 'b'), 'utf8'), 'b\nin\n');
    t.false(existsSync(join(folder, 'sub/deep')));
  },
);

test.serial('files that one kiln apply wrote are no conflict for the next', async (t) => {
  const { folder } = t.context;
  const id = await kept(t, folder, 'echo 1 >> a; mkdir x; echo 1 > x/y; mv b moved');
  t.is((await kiln('apply', id, '/src', 'a', 'x')).code, 0);
  const again = 'echo 2 >> a; echo 2 >> x/y; rm -r sub';
  t.is((await kiln('exec', id, '--', 'sh', '-c', again)).code, 0);
  const { code, said } = await kiln('apply', id, '/src');
  t.is(code, 0, said);
  t.is(readFileSync(join(folder, 'a'), 'utf8'), 'one\ntwo\nthree\n1\n2\n');
  t.is(readFileSync(join(folder, 'x/y'), 'utf8'), '1\n2\n');
  t.deepEqual(readdirSync(folder).sort(), ['.envrc', 'a', 'empty', 'link', 'moved', 'x']);
});

test.serial(
  'kiln apply takes a file that the caller’s tools run only if it is named',
  async (t) => {
    const { folder } = t.context;
    const hook =
      'mkdir -p .git/hooks .vscode; echo touch > .git/hooks/pre-commit; echo 1 > .vscode/t';
    const id = await kept(t, folder, `echo x >> .envrc; ${hook}; echo i > .git/index`);
    const { code, said } = await kiln('apply', id, '/src');
    t.is(code, 125);
    for (const path of ['.envrc', '.git/hooks', '.git/hooks/pre-commit', '.vscode', '.vscode/t'])
      t.true(said.includes(`left alone: ${path}: your own tools may run it`), said);
    t.deepEqual(readdirSync(join(folder, '.git')), ['index']);
    t.is(readFileSync(join(folder, '.envrc'), 'utf8'), 'export A=1\n');
    t.is((await kiln('apply', id, '/src', '.git')).code, 125);
    t.false(existsSync(join(folder, '.git/hooks')));
    const named = await kiln('apply', id, '/src', '.envrc', '.vscode/t', '.git/hooks');
    t.is(named.code, 0, named.said);
    t.true(existsSync(join(folder, '.git/hooks/pre-commit')));
    t.is(readFileSync(join(folder, '.envrc'), 'utf8'), 'export A=1\nx\n');
  },
);

test.serial('kiln apply writes nothing outside of the folder, and no set-id bits', async (t) => {
  const { folder } = t.context;
  const victim = `${folder}-victim`;
  mkdirSync(victim);
  writeFileSync(join(victim, 'c'), 'victim\n');
  symlinkSync(victim, join(folder, 'out'));
  const untouched = await whole(victim);
  const id = await kept(
    t,
    folder,
    `ln -s ${victim} absolute; ln -s ../../etc/passwd up; ln -s sub/../../x behind; ln -s out/c through;
     ln -s ../a sub/inside; ln -s nothing dangling; rm -r sub/deep; ln -s ${victim} sub/deep;
     echo in >> sub/c; rm b; echo s > set; chmod 6755 set; mkfifo fifo; mkdir sticky; chmod 7777 sticky;
     mknod dev c 1 3; mknod white c 0 0; nc -l -U /src/socket -p 1 2>/dev/null & true`,
  );
  renameSync(join(folder, 'sub'), join(folder, 'sub.old'));
  symlinkSync(victim, join(folder, 'sub'));
  const { code, said } = await kiln('apply', id, '/src');
  t.is(code, 125);
  const left = [...said.matchAll(/left alone: (\S+):/g)].map(([, path]) => path).sort();
  t.true(said.includes('left alone: sub/c: a link lies above it in the folder'), said);
  for (const path of ['absolute', 'up', 'behind', 'through', 'sub/c', 'sub/deep', 'fifo'])
    t.true(left.includes(path), `${path}: ${said}`);
  t.is(await whole(victim), untouched);
  for (const path of ['absolute', 'up', 'behind', 'through', 'fifo', 'dev', 'white', 'socket'])
    t.is(lstatSync(join(folder, path), { throwIfNoEntry: false }), undefined, path);
  t.is(readlinkSync(join(folder, 'dangling')), 'nothing');
  t.is(statSync(join(folder, 'set')).mode & 0o7777, 0o755);
  t.is(statSync(join(folder, 'sticky')).mode & 0o7777, 0o777);
  t.false(existsSync(join(folder, 'b')));
});

test.serial('a removed folder is not removed through a link that took its place', async (t) => {
  const { folder } = t.context;
  const victim = `${folder}-victim`;
  mkdirSync(join(victim, 'deep'), { recursive: true });
  writeFileSync(join(victim, 'deep/d'), 'victim\n');
  const id = await kept(t, folder, 'rm sub/deep/d; rm -r empty');
  renameSync(join(folder, 'sub'), join(folder, 'old'));
  symlinkSync(victim, join(folder, 'sub'));
  rmSync(join(folder, 'empty'), { recursive: true });
  symlinkSync(victim, join(folder, 'empty'));
  const { said } = await kiln('apply', '--force', id, '/src');
  t.is(readFileSync(join(victim, 'deep/d'), 'utf8'), 'victim\n', said);
  t.false(existsSync(join(folder, 'empty')), said);
});

test.serial(
  'kiln apply and diff refuse another folder in the place of the one that was bound',
  async (t) => {
    const { folder } = t.context;
    const id = await kept(t, folder, 'echo in >> a');
    renameSync(folder, `${folder}-moved`);
    mkdirSync(folder);
    for (const word of ['apply', 'diff']) {
      const { code, said } = await kiln(word, id, '/src');
      t.is(code, 125);
      t.regex(said, /is another folder than the sandbox was given \[E_CHANGES\]/);
    }
    t.deepEqual(readdirSync(folder), []);
  },
);

test.serial(
  'kiln discard throws the changes away, and the sandbox sees the folder as it is',
  async (t) => {
    const { folder } = t.context;
    const id = await kept(
      t,
      folder,
      `${WRITES}; cp a "$(printf '\\377')"; chmod 700 .; ls -la > /dev/null`,
    );
    writeFileSync(join(folder, 'later'), 'later\n');
    const before = await whole(folder);
    const { code, said } = await kiln('discard', id, '/src');
    t.is(code, 0, said);
    t.is((await kiln('diff', id, '/src')).out, '');
    const seen = await kiln(
      'exec',
      id,
      '--',
      'sh',
      '-c',
      'find . | busybox sort; cat a later sub/c; stat=$(busybox stat -c %a .); echo $stat',
    );
    t.is(
      seen.out,
      '.\n./.envrc\n./a\n./b\n./empty\n./later\n./link\n./sub\n./sub/c\n./sub/deep\n./sub/deep/d\none\ntwo\nthree\nlater\nc\n755',
    );
    t.is(await whole(folder), before);
    t.is((await kiln('exec', id, '--', 'sh', '-c', 'echo again >> a')).code, 0);
    const applied = await kiln('apply', id, '/src');
    t.is(applied.code, 0, applied.said);
    t.is(readFileSync(join(folder, 'a'), 'utf8'), 'one\ntwo\nthree\nagain\n');
    t.regex((await kiln('discard', id, '/')).said, /the root of a sandbox cannot be discarded/);
  },
);

test.serial('kiln diff and apply work while a command changes the layer', async (t) => {
  const { folder } = t.context;
  const id = await kept(t, folder, 'mkdir x; seq 2000 > names');
  const churn = `trap "" HUP; (while :; do for d in 1 2 3 4; do rm -rf x/$d; mkdir -p x/$d/a/b; echo $d > x/$d/a/b/c;
    rm -r x/$d; ln -s /etc x/$d; rm x/$d; echo yes >> big; done; done) > /dev/null 2>&1 & true`;
  const started = await kiln('exec', id, '--', 'sh', '-c', churn);
  t.is(started.code, 0, started.said);
  const before = readdirSync('/etc').length;
  for (let round = 0; round < 5; round++) {
    const shown = await kiln('diff', '--json', id, '/src');
    t.is(shown.code, 0, shown.said);
    const patch = await kiln('diff', '--patch', id, '/src');
    t.is(patch.code, 0, patch.said);
    const { code, said } = await kiln('apply', '--force', id, '/src', 'x');
    t.true(code === 0 || /E_CONFLICT|nothing has changed/.test(said), said);
  }
  t.is(readdirSync('/etc').length, before);
  t.is((await kiln('discard', id, '/src')).code, 0);
  t.is((await kiln('diff', id, '/src')).out, '');
});

const MARKER = `
#include <sys/xattr.h>
#include <stdio.h>
int main(int count, char **words) {
  for (int at = 1; at < count; at++)
    if (setxattr("sub", words[at], "y", 1, 0) != 0) perror(words[at]);
  return 0;
}`;

test.serial('kiln diff ignores marks of overlayfs that a command has made', async (t) => {
  const { folder } = t.context;
  await execa('cc', ['-static', '-x', 'c', '-', '-o', join(folder, 'marker')], { input: MARKER });
  const marks = ['opaque', 'redirect', 'origin', 'whiteout', 'metacopy', 'overlay.opaque'];
  const words = marks.map((mark) => `user.overlay.${mark}`).join(' ');
  const script = `echo 1 > sub/in; ./marker ${words} user.mine; mknod sub/c c 0 0; mknod new c 0 0; true`;
  const id = await kept(t, folder, script);
  t.is((await kiln('diff', id, '/src')).out, 'A sub/in');
  const applied = await kiln('apply', id, '/src');
  t.is(applied.code, 0, applied.said);
  t.deepEqual(readdirSync(join(folder, 'sub')).sort(), ['c', 'deep', 'in']);
});

long<World>('a layer with very many files is told in part, and discarded whole', async (t) => {
  const { folder } = t.context;
  const id = await kept(t, folder, 'mkdir m; cd m; seq 300000 | busybox xargs touch');
  const shown = await kiln('diff', id, '/src');
  t.is(shown.code, 0, shown.said);
  t.is(shown.out.split('\n').length, 100_000);
  t.regex(shown.said, /there is more/);
  t.regex((await kiln('apply', id, '/src')).said, /more than 100000 changes.*\[E_CHANGES\]/);
  t.is((await kiln('diff', id, '/src', 'm/77')).out, 'A m/77');
  t.is((await kiln('discard', id, '/src')).code, 0);
  t.is((await kiln('diff', id, '/src')).out, '');
});

test.serial(
  'kiln apply that is killed leaves whole files, and the sandbox as it was kept',
  async (t) => {
    const { folder } = t.context;
    const names = Array.from({ length: 600 }, (_, at) => `f${at}`);
    for (const name of names) writeFileSync(join(folder, name), 'old\n');
    const id = await kept(t, folder, 'for f in f*; do echo new >> $f; done');
    const written = () =>
      names.filter((name) => readFileSync(join(folder, name), 'utf8') !== 'old\n');
    let killed = 0;
    for (let round = 0; round < 1 && written().length < names.length; round++) {
      const before = written().length;
      // Without the daemon: the process that is killed is the one that writes.
      const how = { env: state.env, reject: false } as const;
      const applying = execa(process.execPath, [MAIN, 'apply', id, '/src'], how);
      while (written().length === before) await sleep(1);
      applying.kill('SIGKILL');
      t.is((await applying).signal, 'SIGKILL');
      killed++;
      for (const name of written())
        t.is(readFileSync(join(folder, name), 'utf8'), 'old\nnew\n', name);
      t.is((await kiln('exec', id, '--', 'cat', 'f1')).out, 'old\nnew');
    }
    t.true(killed > 0);
    const { code, said } = await kiln('apply', id, '/src');
    t.is(code, 0, said);
    t.is(written().length, names.length);
    t.is((await kiln('diff', id, '/src')).out, '');
    t.false(existsSync(join(folder, '.kiln-apply')));
  },
);

test.serial('a sandbox that is not kept cannot be asked for its changes', async (t) => {
  const { said } = await kiln('diff', 'ffff', '/src');
  t.regex(said, /E_NO_SANDBOX/);
});

test.serial('kiln diff and kiln apply work while a command runs in the sandbox', async (t) => {
  const { folder } = t.context;
  const out = state.kiln([
    ...['run', '-r', IMAGE, '--bind', `${folder}:/src:cow`, '--name', 'at-work', '--user', 'root'],
    ...[
      '--',
      'sh',
      '-c',
      'echo 4 >>/src/a; echo x >/root/x; rm /src/b; touch /src/told; sleep 1000',
    ],
  ]);
  const diff = async (...words: string[]) => (await kiln('diff', 'at-work', ...words)).out;
  await eventually(async () => (await diff('/src')).includes('A told'));
  t.is(await diff(), 'A root/x');
  t.is(await diff('/src'), 'M a\nD b\nA told');
  const applied = await kiln('apply', 'at-work', '/src', 'a');
  t.is(applied.code, 0, applied.said);
  t.is(readFileSync(join(folder, 'a'), 'utf8'), 'one\ntwo\nthree\n4\n');
  t.true(existsSync(join(folder, 'b')));
  t.is(await diff('/src'), 'D b\nA told');
  // Its layer is emptied by whoever is alone in it.
  t.regex((await kiln('discard', 'at-work', '/src')).said, /E_NO_SANDBOX/);
  await kiln('kill', 'at-work');
  t.is((await out).exitCode, 125);
});
