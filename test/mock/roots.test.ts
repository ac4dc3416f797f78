import { once } from 'node:events';
import { mkdir, readdir, readFile, readlink, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { KilnError } from '../../src/errors.ts';
import { emptyTrash } from '../../src/image/store/work-directory.ts';
import { MockRoot } from '../../src/jobs/mock/root/root.ts';
import { withPackages } from '../../src/jobs/mock/root/transaction.ts';
import { MirrorServer } from '../repository/mirror-server.ts';
import { until } from '../support/eventually.ts';
import { long } from '../support/long.ts';
import { ownSeconds, processesCalled } from '../support/processes.ts';
import { ends, KILN_MOCK, type MockState, mockState } from './mock-state.ts';

let state: MockState;

test.before(async () => {
  state = await mockState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** What a command in the root wrote; it must go well. */
async function inRoot(t: ExecutionContext, script: string, ...more: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await state.mock([...more, '--chroot', script]);
  t.is(exitCode, 0, stderr);
  return stdout;
}

function leftOut(plugin: string): string {
  return `the plugin ${plugin} is left out: run it with --chroot`;
}

/** A binary package, made by rpmbuild on this host. */
async function binaryPackage(spec: string): Promise<string> {
  const top = join(state.directory, 'rpmbuild');
  await mkdir(top, { recursive: true });
  const path = join(top, 'x.spec');
  await writeFile(path, `Summary: x\nLicense: MIT\nBuildArch: noarch\n${spec}`);
  const { stdout } = await execa('rpmbuild', ['-bb', '--define', `_topdir ${top}`, path]);
  return /Wrote: (\S+\.noarch\.rpm)/.exec(stdout)![1]!;
}

function simple(name: string, version: number, more = ''): Promise<string> {
  return binaryPackage(
    `Name: ${name}\nVersion: ${version}\nRelease: 1\n${more}\n%description\nx\n%install\n` +
      `mkdir -p %{buildroot}/usr/share\necho ${version} > %{buildroot}/usr/share/${name}\n` +
      `%files\n/usr/share/${name}\n`,
  );
}

test.serial('scriptlets that fill the disk cost the root, and leave nothing', async (t) => {
  const { engine } = state;
  const made = await state.mock(['--init']);
  t.is(made.exitCode, 0, made.stderr);
  const file = await binaryPackage(
    'Name: filler\nVersion: 1\nRelease: 1\n%description\nx\n' +
      '%post\nwhile head -c 20M /dev/zero >>/var/fill; do :; done\nexit 0\n%files\n',
  );
  await using root = await MockRoot.lock(engine, 'demo-x86_64');
  t.not(await root.open(() => undefined), undefined);
  const install = withPackages(
    root,
    { onOutput: () => undefined, disk: 200 * 2 ** 20 },
    (session) => session.rpm(['-U', '--nosignature', session.lend(file)]),
  );
  const error = await t.throwsAsync(install, { instanceOf: KilnError });
  t.is((error as KilnError).code, 'E_DISK', String(error));
  t.deepEqual(await readdir(engine.paths.roots), []);
  // The folder of what the sandbox was lent.
  const { stdout } = await execa('du', ['-sk', engine.paths.trash]);
  t.true(Number(stdout.split('\t')[0]) < 1024, stdout);
});

test.serial('a root is what the configuration says, and settings left out are named', async (t) => {
  const made = await state.mock(['--init']);
  t.is(made.exitCode, 0, made.stderr);
  t.regex(made.stderr, /WARNING: \S+demo\.tpl:10: the plugin compress_logs is left out/);
  const script =
    'cat /etc/motd; echo; rpm --eval "%demo %_buildshell"; echo $DEMO; id -un; id -gn mockbuild; id -g mockbuild; stat -c "%U:%G %a" /builddir /srv/one /srv/deep/er; cat /proc/net/dev';
  const lines = (await inRoot(t, script)).split('\n');
  t.deepEqual(lines.slice(0, 9), [
    'welcome',
    'of demo-x86_64 /bin/bash',
    'two words',
    'root',
    'packers',
    '4321',
    'mockbuild:packers 755',
    'root:root 755',
    'root:root 755',
  ]);
  // No network but the sandbox's own.
  t.deepEqual(
    lines.slice(11).map((line) => line.split(':')[0]?.trim()),
    ['lo'],
  );
  t.is(await inRoot(t, 'id -un; pwd', '--unpriv', '--cwd', '/tmp'), 'mockbuild\n/tmp');
});

test.serial('host names are known in a root, and are not stored in it', async (t) => {
  const script = 'getent hosts localhost; getent hosts "$(uname -n)"; cat /etc/resolv.conf';
  const text = await inRoot(
    t,
    `touch /etc/mark; ${script} || echo nobody`,
    '--config-opts',
    'hostname=me',
  );
  t.regex(text, /^::1 +localhost/m);
  t.regex(text, /^127\.\S+ +me$/m);
  t.regex(text, /^nobody$/m);
  const resolver = (await readFile('/etc/resolv.conf', 'utf8')).trim();
  t.is(await inRoot(t, 'cat /etc/resolv.conf', '--enable-network'), resolver);
  // What the root has written is on the disk, and nothing of the names.
  const { stdout } = await execa('find', [state.directory, '-path', '*/upper/etc/*']);
  const written = stdout.split('\n').map((path) => path.split('/upper/etc/')[1] ?? '');
  t.true(written.includes('mark'), stdout);
  t.false(written.includes('hosts') || written.includes('resolv.conf'), stdout);
});

test.serial(
  '--config-opts, --enable-network, --disablerepo and --offline change a root',
  async (t) => {
    const host = await readlink('/proc/self/ns/net');
    const net = 'readlink /proc/self/ns/net';
    t.is(await inRoot(t, net, '--enable-network'), host);
    // The host's network is all it gets of the host.
    const said = ['--config-opts', 'rpmbuild_networking=True', '--config-opts', 'hostname=said'];
    t.is(await inRoot(t, `hostname; ${net}`, ...said), `said\n${host}`);

    // A repository that is asked each time, and counts.
    const directory = join(state.directory, 'counts');
    await mkdir(directory);
    await execa('createrepo_c', ['-q', directory]);
    await using server = await MirrorServer.start(directory);
    const config = join(state.directory, 'counts.cfg');
    await writeFile(
      config,
      `include('demo.cfg')\nconfig_opts['root'] = 'counts'
config_opts['dnf.conf'] += '''
[counts]
baseurl=${server.url}
gpgcheck=0
metadata_expire=0
'''
`,
    );
    const init = (...more: string[]) => state.mock(['-r', config, '--init', ...more]);
    for (const [asks, ...options] of [
      [true],
      [true],
      [false, '--offline'],
      [false, '--disablerepo', 'count?'],
    ] as const) {
      const { length } = server.requests;
      const { exitCode, stderr } = await init(...options);
      t.is(exitCode, 0, stderr);
      t.is(server.requests.length > length, asks, options.join(' '));
    }
    t.is((await state.mock(['-r', config, '--clean'])).exitCode, 0);
  },
);

test.serial(
  'commands have mock’s statuses and arguments, and what they leave stays or is ended',
  async (t) => {
    t.is((await state.mock(['--shell'], { input: 'exit 5\n' })).exitCode, 5);
    t.is((await state.mock(['--shell', 'exit 6'])).exitCode, 6);
    t.is((await state.mock(['--chroot', '--', 'bash', '-c', 'exit 5'])).exitCode, 5);
    t.is((await state.mock(['--chroot', 'kill -TERM $$'])).exitCode, 143);
    ends(t, await state.mock(['--chroot', 'no-such-command']), 127, /ERROR: Command failed/);
    // Hints are of mock's options.
    ends(t, await state.mock(['--chroot', 'no-such', 'x']), 127, /hint: --install .* --copyin/);
    ends(t, await state.mock(['--chroot', '--cwd', '/none', 'ls']), 20, /hint: --cwd names/);
    ends(t, await state.mock(['--copyout', '/dev/null', '.']), 50, /hint: the warnings say/);
    await inRoot(t, 'touch /var/tmp/{foo,bar}');
    t.is((await state.mock(['--chroot', 'touch', '/var/tmp/{a,b}'])).exitCode, 0);
    t.is(await inRoot(t, 'ls /var/tmp'), 'bar\nfoo\n{a,b}');
    // Standard output and error are the command's own.
    const both = await state.mock(['--chroot', 'echo out; echo err >&2']);
    t.is(both.stdout, 'out');
    t.true(both.stderr.endsWith('err'));
    // What it leaves in the background is ended, and sees no process but its own.
    const marker = `sleep ${ownSeconds()}`;
    t.is(await inRoot(t, `${marker} </dev/null & sleep 0.1; echo done`), 'done');
    t.true(await until(() => processesCalled(...marker.split(' ')).length === 0));
    t.true(Number(await inRoot(t, 'ls -d /proc/[0-9]* | wc -l')) < 8);
  },
);

test.serial('files are copied in and out, and no link leads out of the root', async (t) => {
  const file = join(state.directory, 'in.txt');
  await writeFile(file, 'content');
  ends(
    t,
    await state.mock(['--copyin', `${file}-missing`, '/tmp']),
    50,
    /No such file or directory/,
  );
  ends(t, await state.mock(['--copyin', file, file, '/tmp/nowhere']), 50, /is not a directory!/);
  ends(t, await state.mock(['--copyin', file]), 50, /Must have source and destinations/);
  t.is((await state.mock(['--copyin', file, '/etc/in.txt'])).exitCode, 0);
  t.is(await inRoot(t, 'cat /etc/in.txt; stat -c " %U" /etc/in.txt'), 'content root');
  const tree = join(state.directory, 'tree');
  await mkdir(join(tree, 'sub'), { recursive: true });
  await writeFile(join(tree, 'sub/file'), 'deep');
  t.is((await state.mock(['--copyin', tree, '/opt'])).exitCode, 0);
  ends(
    t,
    await state.mock(['--copyin', tree, '/opt']),
    50,
    /Destination \/opt\/tree already exists!/,
  );
  t.is(await inRoot(t, 'cat /opt/tree/sub/file'), 'deep');

  // The root is the host's in nobody's eyes: links of it stay in it.
  await inRoot(
    t,
    `ln -s / /slash; ln -s ${state.directory} /host; mkdir -p /out; echo 1 > /out/a; echo 2 > /out/b`,
  );
  await state.mock(['--copyin', file, '/host/planted']);
  t.false((await readdir(state.directory)).includes('planted'));
  const out = join(state.directory, 'out');
  await mkdir(out);
  t.is((await state.mock(['--copyout', '/out/*', out])).exitCode, 0);
  t.deepEqual((await readdir(out)).sort(), ['a', 'b']);
  t.is((await state.mock(['--copyout', '/slash/etc/in.txt', join(out, 'renamed')])).exitCode, 0);
  t.is(await readFile(join(out, 'renamed'), 'utf8'), 'content');
  ends(t, await state.mock(['--copyout', '/out/*', join(out, 'one')]), 50, /is not a directory!/);
  const missing = await state.mock(['--copyout', '/missing', '/etc/in.txt', '/not/*', out]);
  ends(t, missing, 50, /^ERROR: not found in the root: \/missing, \/not\/\*$/m);
  t.deepEqual((await readdir(out)).sort(), ['a', 'b', 'in.txt', 'renamed']);
});

test.serial('packages are installed, updated and removed by the root’s own rpm', async (t) => {
  const repository = join(state.directory, 'repository');
  await mkdir(repository);
  const publish = async (file: string) => {
    await execa('cp', [file, repository]);
    await execa('createrepo_c', ['-q', repository]);
  };
  const add = ['--addrepo', repository];
  await publish(await simple('leaf', 1));
  await publish(await simple('top', 1, 'Requires: leaf >= 1'));
  t.is((await state.mock([...add, '--install', 'top'])).exitCode, 0);
  t.is(await inRoot(t, 'rpm -q leaf top'), 'leaf-1-1.noarch\ntop-1-1.noarch');
  const before = await inRoot(t, 'rpm -qa | sort');

  await publish(await simple('leaf', 2));
  t.is((await state.mock([...add, '--install', 'top'])).exitCode, 0);
  t.is(await inRoot(t, 'rpm -q leaf'), 'leaf-1-1.noarch');
  t.is((await state.mock([...add, '--update'])).exitCode, 0);
  t.is(await inRoot(t, 'rpm -q leaf; cat /usr/share/leaf'), 'leaf-2-1.noarch\n2');
  await publish(await simple('extra', 1));
  await publish(await simple('leaf', 3));

  // As with dnf, a name of nothing that is installed is a mistake, also where a repository has it.
  ends(t, await state.mock(['--update', 'nosuch']), 30, /nosuch is not installed/);
  ends(t, await state.mock([...add, '--update', 'leaf', 'extra']), 30, /extra is not installed/);
  t.is((await state.mock([...add, '--update', 'lea?', 'top.noarch'])).exitCode, 0);
  t.is(await inRoot(t, 'rpm -q leaf'), 'leaf-3-1.noarch');

  // A file, with what it needs; and one whose needs nobody meets.
  t.is((await state.mock(['--install', await simple('filed', 1, 'Requires: leaf')])).exitCode, 0);
  t.is(await inRoot(t, 'rpm -V filed leaf top && rpm -q filed'), 'filed-1-1.noarch');
  const unmet = await simple('unmet', 1, 'Requires: nobody-has-this');
  ends(t, await state.mock(['--install', unmet]), 30, /nobody-has-this/);
  ends(t, await state.mock(['--install', 'nobody-is-called-this']), 30, /nobody-is-called-this/);
  for (const [argument, why] of [
    ['./nothere.rpm', /nothere\.rpm does not exist/],
    ['file:///x-1-1.noarch.rpm', /is a URL/],
    ['x-1-1.src.rpm', /is a source package/],
  ] as const) {
    ends(t, await state.mock(['--install', argument]), 30, why);
  }
  const needs = join(state.directory, 'needs.spec');
  const head = 'Name: needs\nVersion: 1\nRelease: 1\nSummary: x\nLicense: MIT\n';
  await writeFile(needs, `${head}BuildRequires: libnobody-dev\n%description\nx\n`);
  const none = await state.mock(['--installdeps', needs]);
  ends(t, none, 30, /ERROR: no package provides:\n {2}libnobody-dev\n/);
  ends(t, await state.mock(['--install']), 50, /You must specify a package list/);

  // What needs it goes with it, and nothing else does.
  t.is((await state.mock(['--remove', 'leaf'])).exitCode, 0);
  const expected = before.split('\n').filter((line) => !/^(leaf|top)-/.test(line));
  t.is(await inRoot(t, 'rpm -qa | sort'), expected.join('\n'));
  ends(t, await state.mock(['--remove', 'leaf']), 0, /No match for argument: leaf/);
  ends(t, await state.mock(['--remove', 'rpm']), 30, /rpm would be removed/);

  // A scriptlet that fails keeps its package out, and the root stays as it was.
  const failing = await simple('failing', 1, '%pre\nexit 1');
  ends(t, await state.mock(['--install', failing]), 30, /prein/i);
  t.is((await state.mock(['--chroot', 'rpm -q failing'])).exitCode, 1);
  t.is(await inRoot(t, 'rpm -qa | sort'), expected.join('\n'));
});

test.serial(
  'a root has one user at a time, --uniqueext makes another, and its image stays',
  async (t) => {
    const holder = execa(KILN_MOCK, ['-q', '--configdir', state.configs, '-r', 'demo', '--shell'], {
      env: { ...state.env, HOME: state.directory },
      reject: false,
    });
    holder.stdin.write('echo ready; read line; exit 3\n');
    await once(holder.stdout, 'data');
    ends(t, await state.mock(['--chroot', 'true']), 60, /Build root is locked by another process/);
    const [other] = await Promise.all([
      state.mock(['--uniqueext', 'other', '--chroot', 'ls /var/tmp; hostname']),
    ]);
    t.is(other.stdout, 'mock');
    holder.stdin.end('\n');
    t.is((await holder).exitCode, 3);

    const id = (JSON.parse(await rootFile('demo-x86_64', 'root.json')) as { image: string }).image;
    const removed = await state.kiln(['image', 'rm', id]);
    t.not(removed.exitCode, 0);
    t.regex(String(removed.stderr), /in use by the root demo-x86_64/);
    t.is((await state.mock(['--uniqueext', 'other', '--clean'])).exitCode, 0);
    t.deepEqual(await readdir(state.engine.paths.roots), ['demo-x86_64']);
  },
);

function rootFile(root: string, file: string): Promise<string> {
  return readFile(join(state.engine.paths.roots, root, file), 'utf8');
}

long('a root survives a killed command, and is made again after half a transaction', async (t) => {
  await inRoot(t, 'echo kept > /kept');
  const start = (...args: string[]) =>
    execa(
      process.execPath,
      [
        join(import.meta.dirname, '../../src/programs/command-line.ts'),
        'mock',
        '-v',
        '--configdir',
        state.configs,
        '-r',
        'demo',
        ...args,
      ],
      {
        env: { ...state.env, HOME: state.directory },
        reject: false,
        stdin: 'ignore',
      },
    );
  const shell = start('--chroot', 'echo ready; sleep 3600');
  await once(shell.stdout, 'data');
  shell.kill('SIGKILL');
  await shell;
  t.is(await inRoot(t, 'cat /kept; ps ax | grep -c "[s]leep 3600"; true'), 'kept\n0');

  const slow = await simple('slow', 1, '%pre\nsleep 3600');
  const install = start('--install', slow);
  for (
    let seen = '';
    !seen.includes('"changing":true');
    seen = await rootFile('demo-x86_64', 'root.json')
  ) {
    await sleep(50);
  }
  install.kill('SIGKILL');
  await install;
  const next = await state.mock(['--chroot', 'ls /kept; rpm -q slow']);
  t.regex(next.stderr, /made again: it was being changed when kiln was killed/);
  t.is(next.stdout, 'package slow is not installed');
});

long('--clean and --scrub remove a root, and --init makes it again', async (t) => {
  await inRoot(t, 'touch /kept');
  t.is((await state.mock(['--init', '--no-clean'])).exitCode, 0);
  t.is(await inRoot(t, 'ls /kept'), '/kept');
  t.is((await state.mock(['--init'])).exitCode, 0);
  t.is((await state.mock(['--chroot', 'ls /kept'])).exitCode, 2);
  for (const args of [['--clean'], ['--scrub', 'bootstrap', '--scrub=all']]) {
    await inRoot(t, 'touch /kept');
    await emptyTrash(state.engine.paths);
    t.is((await state.mock(args)).exitCode, 0);
    t.deepEqual(await readdir(state.engine.paths.roots), []);
    t.deepEqual(await readdir(state.engine.paths.trash), [], 'it takes no room any more');
  }
  t.is((await state.mock(['--orphanskill'])).exitCode, 0);
  await inRoot(t, 'true', '--uniqueext', 'old');
  const gc = async (age: string) => {
    const { stdout } = await state.kiln(['gc', '--json', '--max-age', age]);
    return (JSON.parse(String(stdout)) as { roots: string[] }).roots;
  };
  t.deepEqual(await gc('1h'), []);
  await sleep(1100);
  t.deepEqual(await gc('1s'), ['demo-x86_64-old']);
});

test.serial('configurations are listed and shown, and a missing one is reported', async (t) => {
  await writeFile(join(state.configs, 'broken.cfg'), "open('/etc/passwd')\n");
  await writeFile(join(state.configs, 'plain.cfg'), "config_opts['root'] = 'plain'\n");
  await symlink('demo.cfg', join(state.configs, 'default.cfg'));
  const list = (await state.mock(['--list-chroots'])).stdout;
  t.regex(list, /^config name {24}description$/m);
  t.regex(list, /^demo {31}Demo of x86_64$/m);
  t.regex(list, /^plain$/m);
  t.regex(list, /^broken {29}error during parsing the config file$/m);
  t.regex(list, /^debian-build$/m);
  const debug = (await state.mock(['--debug-config'])).stdout;
  t.true(debug.includes("config_opts['root'] = 'demo-{{ target_arch }}'\n"));
  const expanded = (await state.mock(['--debug-config-expanded', '--uniqueext', 'u'])).stdout;
  t.true(expanded.includes("config_opts['root'] = 'demo-x86_64-u'\n"));
  // Python reads what is shown.
  const python = 'import sys; config_opts = {}; exec(sys.stdin.read()); print(config_opts["root"])';
  t.is((await execa('python3', ['-c', python], { input: expanded })).stdout, 'demo-x86_64-u');
  // What the command line says of plugins is there, and what is not done of it is said.
  const plugins = [
    ...['--enable-plugin', 'ccache', '--plugin-option', 'ccache:max_cache_size=1G'],
    ...['--plugin-option', 'chroot_scan:only_failed=False', '--disable-plugin=compress_logs'],
  ];
  const switched = (await state.mock(['--debug-config', ...plugins])).stdout;
  const conf =
    'import json, sys; config_opts = {}; exec(sys.stdin.read()); print(json.dumps(config_opts["plugin_conf"]))';
  t.like(JSON.parse((await execa('python3', ['-c', conf], { input: switched })).stdout), {
    ccache_enable: true,
    ccache_opts: { max_cache_size: '1G' },
    compress_logs_enable: false,
    chroot_scan_opts: { only_failed: false },
  });
  const silent = await state.mock(['--disable-plugin', 'compress_logs', '--clean']);
  t.is(silent.stderr, '');
  const procenv = ['--disable-plugin', 'compress_logs', '--enable-plugin', 'procenv', '--clean'];
  t.is((await state.mock(procenv)).stderr, `WARNING: ${leftOut('procenv')} [mock-config]`);
  const none = await state.mock(['--enable-plugin', 'nosuch', '--clean']);
  ends(t, none, 5, /there is no plugin nosuch[\s\S]*ccache, /);
  ends(t, await state.mock(['--plugin-option', 'ccache', '--clean']), 5, /PLUGIN:KEY=VALUE/);
  // A recipe of kiln's is shown by mock's names, too.
  const names = (text: string) =>
    [...text.matchAll(/^config_opts\['(.*?)'\] = /gm)].map(([, it]) => it);
  const recipe = (await state.mock(['-r', 'debian-build', '--debug-config', ...plugins])).stdout;
  t.true(recipe.includes("config_opts['root'] = 'debian-build'\n"));
  t.true(recipe.includes("config_opts['chrootuser'] = 'build'\n"));
  t.regex(recipe, /^config_opts\['plugin_conf'\] = .*'ccache_enable': True/m);
  t.deepEqual(
    names(recipe).filter((name) => !names(debug).includes(name)),
    [],
  );
  const said = await state.mock(['-r', 'debian-build', '--enable-plugin', 'procenv', '--clean']);
  t.is(said.stderr, `WARNING: ${leftOut('procenv')} [mock-config]`);
  ends(
    t,
    await state.mock(['-r', 'nowhere', '--init']),
    3,
    /Could not find required config file: \S+nowhere\.cfg/,
  );
  ends(t, await state.mock(['-r', 'broken', '--init']), 3, /broken\.cfg:1: open\(\) is not there/);
  const dict = ['--config-opts', 'environment={"A":"b"}', '--init'];
  ends(t, await state.mock(dict), 3, /--config-opts environment: it is a dict/);
  ends(t, await state.mock(['--initt']), 5, /no option --initt/);
  t.is((await stat(KILN_MOCK)).mode & 0o111, 0o111);
});
