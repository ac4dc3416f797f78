/** Command lines that mock's users know, and what mock does with them. */
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import type { Mode } from '../../src/cli/mock/modes.ts';
import { OPTIONS } from '../../src/cli/mock/option-table.ts';
import { type SourceSpec, sourcePackage } from '../build/source-packages.ts';
import { MirrorServer } from '../repository/mirror-server.ts';
import { buildPackages, createRepository } from '../repository/rpm-repository.ts';
import { eventually } from '../support/eventually.ts';
import { isLong, long } from '../support/long.ts';
import { ends, KILN_MOCK, type MockResult, type MockState, mockState } from './mock-state.ts';

let state: MockState;

test.before(async () => {
  state = await mockState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

function srpm(spec: SourceSpec): Promise<string> {
  return sourcePackage(join(state.directory, 'srpms'), spec);
}

function results(name: string): string {
  return join(state.directory, 'results', name);
}

function passes(t: ExecutionContext, result: MockResult): void {
  t.is(result.exitCode, 0, result.stderr);
}

/** Flags and options with a value, which every mode takes. */
function everyOption(mode: Mode): string[] {
  const values: Readonly<Record<string, string>> = {
    'config-opts': 'rpmbuild_timeout=0',
    configdir: state.configs,
    root: 'demo',
    define: 'unused 1',
    target: 'noarch',
    arch: 'x86_64',
    forcearch: 'x86_64',
    'macro-file': join(state.configs, 'macros'),
    'enable-plugin': 'ccache',
    'disable-plugin': 'ccache',
    'plugin-option': 'ccache:max_cache_size=1G',
    addrepo: state.configs,
    cwd: '/',
    uniqueext: mode,
    enablerepo: 'debian',
    'additional-package': 'gzip',
    resultdir: results('all'),
    rpmbuild_timeout: '99',
    'rpmbuild-opts': '--nodebuginfo',
    localrepo: results('all'),
    'short-circuit': 'build',
    isolation: 'simple',
  };
  return [...OPTIONS].flatMap(([name, { help, mode: isMode, value, onlyFor }]) => {
    if (help === undefined || isMode !== undefined) return [];
    if (onlyFor !== undefined && !onlyFor.includes(mode)) return [];
    if (
      [
        'help',
        'version',
        'verbose',
        'quiet',
        'scrub',
        'spec',
        'sources',
        // test/mock/hermetic.test.ts has it: it contradicts others.
        'buildroot-image',
        'disablerepo',
        'offline',
      ].includes(name)
    )
      return [];
    if (mode === 'chain' && name === 'resultdir') return [];
    return value === undefined ? [`--${name}`] : [`--${name}`, values[name] ?? 'nothing'];
  });
}

/** A repository of small packages, by their specs. */
async function repository(
  name: string,
  packages: Parameters<typeof buildPackages>[1],
): Promise<string> {
  const directory = join(state.directory, name);
  await buildPackages(directory, packages);
  await createRepository(directory);
  return directory;
}

/** What rpm on this host says of a package file. */
async function query(file: string, ...what: string[]): Promise<string> {
  return (await execa('rpm', ['-qp', '--nosignature', ...what, file])).stdout;
}

/** A configuration like demo.cfg, with more lines. */
async function config(name: string, text: string): Promise<string> {
  const path = join(state.configs, `${name}.cfg`);
  await writeFile(path, `include('demo.cfg')\nconfig_opts['root'] = '${name}'\n${text}\n`);
  return path;
}

const SPEC = `Name: plain
Version: 1
Release: 1
Summary: x
License: MIT
BuildArch: noarch
%description
x
%build
ls -A %{_sourcedir} > listed 2> /dev/null || :
%install
mkdir -p %{buildroot}/usr/share
cp listed %{buildroot}/usr/share/plain
%files
/usr/share/plain
`;

test.serial('--spec with one source package replaces its spec', async (t) => {
  const good = await srpm({ name: 'good' });
  const spec = join(state.directory, 'other.spec');
  await writeFile(spec, SPEC);
  const out = results('replaced');
  passes(t, await state.mock(['--spec', spec, good, '--resultdir', out]));
  t.deepEqual((await readdir(out)).filter((name) => name.endsWith('.rpm')).sort(), [
    'plain-1-1.noarch.rpm',
    'plain-1-1.src.rpm',
  ]);
  ends(t, await state.mock(['--spec', spec, good, good]), 50, /--spec is for one package/);
});

test.serial('--buildsrpm --spec needs no --sources, as Copr calls it', async (t) => {
  const spec = join(state.directory, 'alone.spec');
  await writeFile(spec, SPEC);
  const out = results('alone');
  passes(t, await state.mock(['--buildsrpm', '--spec', spec, '--resultdir', out]));
  t.is(await query(join(out, 'plain-1-1.src.rpm'), '--qf', '%{name}'), 'plain');
  ends(t, await state.mock(['--buildsrpm']), 5, /Must specify --spec with --buildsrpm/);
});

long('--sources may contain the result directory, or be it', async (t) => {
  const content = async (out: string) => {
    const rpm = join(out, 'plain-1-1.noarch.rpm');
    const script = 'rpm2cpio "$1" | cpio -i --quiet --to-stdout';
    return (await execa('sh', ['-c', script, 'sh', rpm])).stdout.split('\n').sort();
  };
  const folder = join(state.directory, 'work');
  await mkdir(join(folder, 'sub/out'), { recursive: true });
  await writeFile(join(folder, 'plain.spec'), SPEC);
  await writeFile(join(folder, 'sub/kept'), 'x');
  await writeFile(join(folder, 'sub/out/old'), 'x');
  const spec = join(folder, 'plain.spec');
  const build = async (out: string) => {
    passes(t, await state.mock(['--spec', spec, '--sources', folder, '--resultdir', out]));
    return await content(out);
  };
  t.deepEqual(await build(join(folder, 'sub/out')), ['plain.spec', 'sub']);
  // Twice, so that there are results of a build before.
  t.deepEqual(await build(folder), ['plain.spec', 'sub']);
  t.deepEqual(await build(folder), ['plain.spec', 'sub']);
});

test.serial('--short-circuit continues a failed build, and marks what it makes', async (t) => {
  const out = results('stepwise');
  const stepwise = await srpm({
    name: 'stepwise',
    build: 'echo once >> ../../count; echo here > kept',
    sections: '%check\ntest -f ../../retry\n',
  });
  const mock = (...args: string[]) => state.mock([...args, '--resultdir', out, '-N', stepwise]);
  // A build that went well leaves its directory, too.
  passes(t, await mock('--nocheck'));
  if (isLong) {
    passes(t, await mock('--nocheck', '--short-circuit', 'install'));
    const { build } = JSON.parse(await readFile(join(out, 'result.json'), 'utf8'));
    t.deepEqual(build.packages, [], 'install makes no packages');
    t.false(existsSync(join(out, 'provenance.json')), 'nor provenance of another build’s');
  }
  passes(t, await mock('--nocheck', '--short-circuit', 'binary'));
  t.regex(await readFile(join(out, 'build.log'), 'utf8'), /rpmbuild .*--short-circuit.* --noclean/);
  const names = await readdir(out);
  t.deepEqual(
    names.filter((name) => /provenance|sbom|spdx|SHA256SUMS/.test(name)),
    [],
  );
  const requires = await query(join(out, 'stepwise-1-1.noarch.rpm'), '--requires');
  t.regex(requires, /^rpmlib\(ShortCircuited\)/m);
  const count = await state.mock(['--chroot', 'find /builddir -name count | xargs cat']);
  t.is(count.stdout, 'once');
  passes(t, await state.mock(['--clean']));
});

long('--postinstall reports a scriptlet that fails, and the root has the packages', async (t) => {
  const loud = await srpm({ name: 'loud', sections: '%post\necho cannot; exit 3' });
  const args = ['--rebuild', loud, '--postinstall', '--resultdir', results('loud'), '-N'];
  const result = await state.mock(args);
  passes(t, result);
  t.regex(result.stderr, /WARNING: %post\(loud-1-1\.noarch\) scriptlet failed, exit status 3/);
  t.is((await state.mock(['--shell', 'rpm -q loud'])).stdout, 'loud-1-1.noarch');
  passes(t, await state.mock(['--clean']));
});

test.serial('packages from the repositories of one call stay in the root', async (t) => {
  const a = await repository('repo-a', [{ name: 'from-a', files: { '/usr/share/a': 'a' } }]);
  const b = await repository('repo-b', [{ name: 'from-b', requires: ['from-a'] }]);
  const sections = [
    `[a]\\nbaseurl=${pathToFileURL(a)}\\nenabled=0`,
    `[b]\\nbaseurl=${pathToFileURL(b)}`,
  ];
  const cfg = await config(
    'switched',
    `config_opts['dnf.conf'] += '\\n${sections.join('\\ngpgcheck=0\\n')}\\ngpgcheck=0\\n'`,
  );
  passes(t, await state.mock(['-r', cfg, '--enablerepo', 'a', '--install', 'from-a']));
  passes(t, await state.mock(['-r', cfg, '--install', 'from-b']));
  const installed = await state.mock(['-r', cfg, '--chroot', 'rpm -q from-a from-b']);
  t.is(installed.stdout, 'from-a-1-1.noarch\nfrom-b-1-1.noarch');
  // Package managers' own words.
  passes(t, await state.mock(['-r', cfg, '--dnf-cmd', 'remove', 'from-b']));
  t.is((await state.mock(['-r', cfg, '--chroot', 'rpm -q from-b'])).exitCode, 1);
  passes(t, await state.mock(['-r', cfg, '--pm-cmd', 'install', 'from-b']));
  ends(
    t,
    await state.mock(['-r', cfg, '--pm-cmd', 'whatprovides', 'x']),
    5,
    /does not do `whatprovides`/,
  );
  // All roots go, whatever their configurations.
  passes(t, await state.mock(['--init']));
  t.is((await readdir(state.engine.paths.roots)).length, 2);
  passes(t, await state.mock(['--scrub-all-chroots']));
  t.deepEqual(await readdir(state.engine.paths.roots), []);
});

test.serial('every option has an effect in some mode, or says that it has none', async (t) => {
  await createRepository(state.configs);
  await writeFile(join(state.configs, 'macros'), '%unused 2\n');
  const modes: readonly (readonly [Mode, ...string[]])[] = [
    ['rebuild', await srpm({ name: 'options' })],
    ['chain', await srpm({ name: 'options' })],
    ['shell', 'true'],
    ['init'],
  ];
  const said = new Map<Mode, string[]>();
  for (const [mode, ...args] of modes) {
    const options = everyOption(mode);
    const { stderr } = await state.mock([...options, `--${mode}`, ...args], { verbosity: '-v' });
    t.regex(stderr, /^Finish: run$/m, stderr);
    const words = stderr.matchAll(/^INFO: --(\S+) changes nothing with --(\S+)$/gm);
    said.set(mode, [...words].map(([, name = '']) => name).sort());
  }
  const build = ['define', 'macro-file', 'nocheck', 'postinstall', 'rpmbuild-opts'];
  const more = ['rpmbuild_timeout', 'short-circuit', 'with', 'without'];
  const after = ['cleanup-after', 'no-cleanup-after'];
  const command = ['cwd', 'unpriv'];
  t.deepEqual(Object.fromEntries(said), {
    rebuild: command,
    chain: ['no-clean', ...after, ...command].sort(),
    shell: ['addrepo', 'no-clean', ...after, ...build, ...more].sort(),
    init: ['addrepo', 'enable-network', ...after, ...command, ...build, ...more].sort(),
  });
});

test.serial('more_buildreqs, --macro-file and disabled plugins take effect', async (t) => {
  const directory = await repository('extras', [
    { name: 'extra' },
    { name: 'ccache', files: { '/usr/bin/ccache': 'x' } },
  ]);
  const good = await srpm({
    name: 'good',
    build:
      'rpm -q extra; echo "macro %{from_file} %{from_lua}"; echo "cache $CCACHE_MAXSIZE $CCACHE_DIR"; rpm -q ccache',
  });
  const cfg = await config(
    'more',
    `config_opts['more_buildreqs']['good-1'] = ['extra']
config_opts['plugin_conf']['ccache_enable'] = True
config_opts['plugin_conf']['ccache_opts']['max_cache_size'] = '64M'`,
  );
  const macros = join(state.directory, 'macros');
  await writeFile(
    macros,
    `# a comment\n%from_file of two \\\n  lines \\\n# and this\n%from_lua %{lua:\nprint("lua")\n}\n`,
  );
  const out = results('more');
  const result = await state.mock([
    ...['-r', cfg, '--rebuild', good, '--resultdir', out, '--addrepo', directory],
    ...['--macro-file', macros, '--disable-plugin=hw_info', '--disable-plugin=package_state'],
  ]);
  passes(t, result);
  const log = await readFile(join(out, 'build.log'), 'utf8');
  t.regex(log, /^extra-1-1\.noarch$/m);
  t.regex(log, /^macro of two \n {2}lines \n# and this lua$/m);
  t.regex(log, /^cache 65536Ki \/builddir\/\.cache\/ccache$/m);
  t.regex(log, /^ccache-1-1\.noarch$/m);
  const names = await readdir(out);
  t.deepEqual(
    names.filter((name) => ['hw_info.log', 'installed_pkgs.log'].includes(name)),
    [],
  );
  t.true(names.includes('root.log'));
  const none = await state.kiln([
    ...['build', '-r', 'debian-build', '--cache', 'ccache', good, '--resultdir', results('none')],
  ]);
  t.regex(String(none.stderr), /warning: the image has no ccache/);
});

long('source packages may be URLs, and a mirrorlist may be a path', async (t) => {
  const good = await srpm({ name: 'good' });
  await using server = await MirrorServer.start(join(state.directory, 'srpms'));
  const url = `${server.url}${good.split('/').at(-1)}`;
  passes(t, await state.mock(['--rebuild', url, '--resultdir', results('url')]));
  t.true(existsSync(join(results('url'), 'good-1-1.noarch.rpm')));
  if (isLong) passes(t, await state.mock(['--chain', '--localrepo', results('url-chain'), url]));
  const there = pathToFileURL(good).href;
  passes(t, await state.mock(['--rebuild', there, '--resultdir', results('file-url')]));
  t.true(existsSync(join(results('file-url'), 'good-1-1.noarch.rpm')));
  const gone = await state.mock([there.replace('good', 'gone'), '--resultdir', results('url')]);
  ends(t, gone, 1, /cannot read the source package \/\S+\/gone-1-1\.src\.rpm: it does not exist/);
  const missing = await state.mock([
    `${server.url}none-1-1.src.rpm`,
    '--resultdir',
    results('url'),
  ]);
  ends(t, missing, 30, /none-1-1\.src\.rpm/);
  ends(
    t,
    await state.mock(['gopher://x/y.src.rpm']),
    50,
    /gopher.* is not the URL of a source package/,
  );

  const local = await repository('listed', [{ name: 'listed' }]);
  await mkdir(join(state.directory, 'x86_64'), { recursive: true });
  await writeFile(join(state.directory, 'x86_64/list'), `# comment\n${pathToFileURL(local)}\n`);
  const conf = `[listed]\\nmirrorlist=${state.directory}/$basearch/list\\ngpgcheck=0\\n`;
  const cfg = await config('listed', `config_opts['dnf.conf'] += '\\n${conf}'`);
  passes(t, await state.mock(['-r', cfg, '--install', 'listed']));
  passes(t, await state.mock(['-r', cfg, '--scrub=all']));

  // Of mirrors, a folder of this host is taken that is there; all of these repositories are read.
  const away = 'http://127.0.0.1:1/x';
  await writeFile(join(state.directory, 'more'), `file:///none\r\n${pathToFileURL(local)}\r\n`);
  const sections = [
    `baseurl=file:///none ${pathToFileURL(local)}`,
    `baseurl=${away}\\n  ${local}`,
    `baseurl=file:${local}, file:///none/a%b`,
    `mirrorlist=file:${state.directory}/more`,
  ].map((line, n) => `[mirrored${n}]\\n${line}\\ngpgcheck=0\\n`);
  const many = await config('mirrors', `config_opts['dnf.conf'] += '\\n${sections.join('')}'`);
  passes(t, await state.mock(['-r', many, '--install', 'listed']));
  const nowhere = await config(
    'gone',
    `config_opts['dnf.conf'] += '\\n[gone]\\nbaseurl=file:///none file:///nor\\ngpgcheck=0\\n'`,
  );
  ends(t, await state.mock(['-r', nowhere, '--init']), 30, /repository gone: there is no \/none\//);
  const metalink = await config(
    'meta',
    `config_opts['dnf.conf'] += '\\n[meta]\\nmetalink=/none\\n'`,
  );
  const words = /meta\.cfg:3: repository meta: the metalink \/none is not an http: or https: URL/;
  ends(t, await state.mock(['-r', metalink, '--init']), 3, words);
  await rm(join(state.directory, 'x86_64/list'));
  ends(
    t,
    await state.mock(['-r', cfg, '--init']),
    3,
    /repository listed: cannot read the mirrorlist/,
  );
});

test.serial('bind_mount shows files of the host, and none can be changed', async (t) => {
  const shown = join(state.directory, 'shown');
  await mkdir(shown, { recursive: true });
  await writeFile(join(shown, 'from-host'), 'of the host\n');
  const dirs = `[('${shown}', 'srv/shown/'), ('${shown}/from-host', '/opt/file')]`;
  const path = await config(
    'binds',
    `config_opts['plugin_conf']['bind_mount_opts']['dirs'] = ${dirs}`,
  );
  const said = await state.mock(['-r', path, '--chroot', 'cat /srv/shown/from-host /opt/file']);
  passes(t, said);
  t.is(said.stdout, 'of the host\nof the host');
  t.regex(said.stderr, /WARNING: .*the plugin bind_mount: \S+\/shown is read-only in the root/);
  const change = 'echo x > /srv/shown/from-host || rm /srv/shown/from-host || touch /srv/shown/new';
  t.not((await state.mock(['-r', path, '--chroot', change])).exitCode, 0);
  const build = `cat /srv/shown/from-host; ! touch /srv/shown/new; ! touch /srv/shown/from-host`;
  const out = results('binds');
  const file = await srpm({ name: 'binds', build });
  passes(t, await state.mock(['-r', path, '--rebuild', file, '--resultdir', out]));
  t.regex(await readFile(join(out, 'build.log'), 'utf8'), /^of the host$/m);
  t.deepEqual(await readdir(shown), ['from-host']);
  t.is(await readFile(join(shown, 'from-host'), 'utf8'), 'of the host\n');
  const wrong = await config(
    'wrong',
    "config_opts['plugin_conf']['bind_mount_opts']['dirs'] = ['/srv']",
  );
  ends(
    t,
    await state.mock(['-r', wrong, '--chroot', 'true']),
    3,
    /bind_mount_opts: dirs has pairs/,
  );
});

test.serial('chroot_scan copies files of the root by name, and follows no link', async (t) => {
  const settings = "config_opts['plugin_conf']['chroot_scan_opts']";
  const scanning = (name: string, text = '') =>
    config(name, `config_opts['plugin_conf']['chroot_scan_enable'] = True\n${text}`);
  // rpmbuild removes its own folder after a build that went well.
  const build = `mkdir -p ~/made/.hidden ~/made/dir.log; cd ~/made
echo found > .hidden/found.log; echo kept > core.12; echo other > dir.log/other.txt
ln -s /etc/passwd link.log; ln -s .hidden linked; mkfifo pipe.log; touch "$(printf 'a\nb.log')"
cd - > /dev/null`;
  const fails = await srpm({ name: 'fails', build: `${build}\nexit 1` });
  const works = await srpm({ name: 'works', build });
  /** What came out of the build user's folder; all that came out is files. */
  const scanned = async (path: string, file: string, out: string) => {
    const run = await state.mock(['-r', path, '--rebuild', file, '--resultdir', results(out)]);
    const all = await readdir(join(results(out), 'chroot_scan'), {
      recursive: true,
      withFileTypes: true,
    }).catch(() => []);
    const files = all.filter((entry) => !entry.isDirectory());
    t.true(files.every((entry) => entry.isFile()));
    const paths = files.map(({ parentPath, name }) => join(parentPath, name));
    const made = join(results(out), 'chroot_scan/builddir/made/');
    const names = paths.filter((it) => it.startsWith(made)).map((it) => it.slice(made.length));
    return { run, names: names.sort() };
  };
  const path = await scanning('scanning');
  const failed = await scanned(path, fails, 'scan-failed');
  t.is(failed.run.exitCode, 1);
  t.notRegex(failed.run.stderr, /chroot_scan/);
  t.deepEqual(failed.names, ['.hidden/found.log', 'a\nb.log', 'core.12']);
  const { artifacts } = JSON.parse(
    await readFile(join(results('scan-failed'), 'result.json'), 'utf8'),
  );
  t.true(
    artifacts.some((entry: { path: string }) =>
      /^chroot_scan\/builddir\/made\/\.hidden\/found\.log$/.test(entry.path),
    ),
  );
  const passed = await scanned(path, works, 'scan-passed');
  passes(t, passed.run);
  t.false(existsSync(join(results('scan-passed'), 'chroot_scan')));
  if (isLong) {
    const always = await scanning(
      'always',
      `${settings} = {'regexes': ['^oth'], 'only_failed': False, 'write_tar': True}`,
    );
    const archived = await scanned(always, works, 'scan-always');
    passes(t, archived.run);
    t.deepEqual(archived.names, ['dir.log/other.txt']);
    t.regex(archived.run.stderr, /WARNING: .*write_tar of the plugin chroot_scan is left out/);
  }
  // A regular expression that would take years with a name that the package chose.
  const slow = await scanning(
    'slow',
    `${settings} = {'regexes': ['^(a+)+$'], 'only_failed': False}`,
  );
  const long = await srpm({ name: 'long', build: `touch ~/${'a'.repeat(100)}b` });
  const bounded = await scanned(slow, long, 'scan-slow');
  passes(t, bounded.run);
  t.regex(bounded.run.stderr, /WARNING: chroot_scan: nothing is copied: .*timed out/);
  const wrong = await scanning('wrong', `${settings}['regexes'] = ['(?P<name>x)']`);
  ends(t, await state.mock(['-r', wrong, works]), 3, /\(\?P<name>x\) cannot be read/);
});

long('createrepo_on_rpms makes the result directory a repository that dnf reads', async (t) => {
  const path = await config('published', "config_opts['createrepo_on_rpms'] = True");
  const out = results('published');
  const listed = async () => {
    const [repo, set] = [`--repofrompath=out,${pathToFileURL(out)}`, '--setopt=reposdir=/dev/null'];
    const cache = `--setopt=cachedir=${join(state.directory, 'dnf')}`;
    const query = [
      'repoquery',
      '--quiet',
      '--refresh',
      '--available',
      '--qf',
      '%{name}-%{version}.%{arch}\n',
    ];
    const { stdout } = await execa('dnf', [
      '--disablerepo=*',
      '--enablerepo=out',
      repo,
      set,
      cache,
      ...query,
    ]);
    return stdout.split('\n').filter(Boolean).sort();
  };
  const first = await srpm({ name: 'first' });
  passes(t, await state.mock(['-r', path, '--rebuild', first, '--resultdir', out]));
  t.deepEqual(await listed(), ['first-1.noarch', 'first-1.src', 'first-devel-1.noarch']);
  const second = await srpm({ name: 'second' });
  passes(t, await state.mock(['-r', path, '--rebuild', second, '--resultdir', out]));
  t.is((await listed()).length, 6);
  t.is((await readdir(join(out, 'repodata'))).length, 4);
});

test.serial('--orphanskill ends what runs in the root, even a build', async (t) => {
  const slow = await srpm({ name: 'slow', build: 'echo it is building; sleep 3600' });
  const start = (...args: string[]) =>
    execa(KILN_MOCK, ['-v', '--configdir', state.configs, '-r', 'demo', ...args], {
      env: { ...state.env, HOME: state.directory },
      reject: false,
      stdin: 'ignore',
      all: true,
    });
  const runs = [{ args: ['--uniqueext', 'x', slow, '--resultdir', results('slow')], root: 'x' }];
  if (isLong) runs.push({ args: ['--chroot', 'echo it is building; sleep 3600'], root: 'demo' });
  for (const { args, root } of runs) {
    const call = start(...args);
    let ended = false;
    void call.then(() => {
      ended = true;
    });
    for await (const line of call.iterable({ from: 'all' })) {
      if (!/^it is building/.test(line)) continue;
      // Another root's are left alone.
      const other = await state.mock(['--orphanskill', '--uniqueext', 'other']);
      passes(t, other);
      await sleep(100);
      t.false(ended);
      passes(t, await state.mock(['--orphanskill', ...(root === 'x' ? ['--uniqueext', 'x'] : [])]));
      break;
    }
    t.not((await call).exitCode, 0);
  }
  const listed = async () => String((await state.kiln(['ps'])).stdout);
  t.true(await eventually(async () => !/sleep|slow-1-1/.test(await listed())));
});

test.serial('logs have what packagers’ tools look for', async (t) => {
  const good = await srpm({ name: 'good' });
  const out = results('logs');
  passes(t, await state.mock(['--rebuild', good, '--resultdir', out, '-D', 'two words']));
  const build = await readFile(join(out, 'build.log'), 'utf8');
  t.regex(build, /^Executing command: rpmbuild --define 'two words' -bb /m);
  t.deepEqual(build.match(/^Child return code was: \d+$/gm)?.slice(-1), [
    'Child return code was: 0',
  ]);
  const root = await readFile(join(out, 'root.log'), 'utf8');
  t.regex(
    root,
    /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - image demo-x86_64 \(\w+\): \d+ packages$/m,
  );
  const stamp = String.raw`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - `;
  const phases = await readFile(join(out, 'state.log'), 'utf8');
  for (const name of [
    'chroot init',
    'build phase for good-1-1.src.rpm',
    'build setup for good-1-1.src.rpm',
    'rpmbuild good-1-1.src.rpm',
  ]) {
    for (const event of ['Start', 'Finish']) {
      t.regex(phases, new RegExp(`${stamp}${event}: ${name}$`, 'm'));
    }
  }
  // What is required is named as well when its layer was made before.
  const directory = await repository('needed', [{ name: 'needed' }]);
  const needs = await srpm({ name: 'needs', buildRequires: ['needed'] });
  for (const name of ['layer-1', 'layer-2']) {
    const args = ['--rebuild', needs, '--resultdir', results(name), '--addrepo', directory];
    passes(t, await state.mock(args));
    t.regex(
      await readFile(join(results(name), 'root.log'), 'utf8'),
      new RegExp(`${stamp}installing needed-1-1\\.noarch \\(\\S+\\)$`, 'm'),
    );
  }
});

/** Builds what does not build. */
async function fails(name: string, spec: SourceSpec | string): Promise<MockResult> {
  const out = results(name);
  if (typeof spec !== 'string') {
    return await state.mock(['-v', await srpm(spec), '--resultdir', out], { verbosity: '-v' });
  }
  const path = join(state.directory, `${name}.spec`);
  await writeFile(path, spec);
  return await state.mock(['--spec', path, '--resultdir', out]);
}

test.serial(
  'statuses are mock’s: no such file, package or repository, another processor',
  async (t) => {
    const out = ['--resultdir', results('statuses')];
    for (const mode of ['--rebuild', '--installdeps', '--calculate-build-dependencies']) {
      const missing = await state.mock([mode, 'none-1-1.src.rpm', ...out]);
      ends(t, missing, 1, /none-1-1\.src\.rpm: it does not exist/);
    }
    for (const [name, preamble, words] of [
      ['excluded', 'ExcludeArch: x86_64 noarch', /its ExcludeArch is x86_64, noarch/],
      ['only', 'ExclusiveArch: s390x', /its ExclusiveArch is s390x/],
    ] as const) {
      ends(t, await state.mock([await srpm({ name, preamble }), ...out]), 1, words);
      // Not after the build, as rpmbuild says it.
      const log = await readFile(join(results('statuses'), 'build.log'), 'utf8');
      t.notRegex(log, /Executing\(%build\)/);
    }
    const nobody = await state.mock([
      '--enablerepo',
      'nobody',
      await srpm({ name: 'good' }),
      ...out,
    ]);
    ends(t, nobody, 0, /no repository is called nobody \(--enablerepo\)/);
    ends(t, await state.mock(['--remove', 'nobody']), 0, /No match for argument: nobody/);
    passes(t, await state.mock(['--install', 'gnu-which']));
    const both = await state.mock(['--pm-cmd', 'remove', 'nobody', 'gnu-which', 'no*one']);
    ends(t, both, 0, /nobody[\s\S]*no\*one/);
    ends(t, await state.mock(['--chroot', 'rpm -q gnu-which']), 1, /^/);
  },
);

long('--install removes packages that conflict, as with --allowerasing', async (t) => {
  const needs = { name: 'needs-tool', requires: ['tool'] };
  const local = await repository('rivals', [
    { name: 'tool' },
    needs,
    { name: 'rival', conflicts: ['tool'] },
  ]);
  const conf = `[rivals]\\nbaseurl=${pathToFileURL(local)}\\ngpgcheck=0\\n`;
  const cfg = await config('rivals', `config_opts['dnf.conf'] += '\\n${conf}'`);
  const mock = (...args: string[]) => state.mock(['-r', cfg, ...args]);
  passes(t, await mock('--install', 'needs-tool'));
  const installed = async () => {
    const all = (await mock('--chroot', 'rpm -qa --qf "%{name}\\n" | sort')).stdout.split('\n');
    return all.filter((name) => ['tool', 'needs-tool', 'rival'].includes(name));
  };
  t.deepEqual(await installed(), ['needs-tool', 'tool']);
  const result = await mock('--install', 'rival');
  passes(t, result);
  t.deepEqual(await installed(), ['rival']);
  passes(t, await mock('--chroot', 'rpm -Va --nofiles'));
  passes(t, await mock('--install', 'tool'));
  t.deepEqual(await installed(), ['tool']);
  // rpm itself stays.
  const evil = await repository('evil', [{ name: 'evil', conflicts: ['rpm'] }]);
  const refused = await mock('--addrepo', `file://${evil}`, '--install', 'evil');
  ends(t, refused, 30, /rpm/);
  passes(t, await mock('--scrub=all'));
});

test.serial('the cause of a failure is on the first screen, once, with a hint', async (t) => {
  const check = await fails('check', {
    name: 'check',
    sections: '%check\necho the check is cross >&2; exit 1',
  });
  ends(t, check, 1, /ERROR: %check failed: exit status 1/);
  t.is(check.stderr.match(/^(?:ERROR: *)?the check is cross$/gm)?.length, 1, check.stderr);
  const others = ['pkgconfig(libaa)', 'perl(Test::Moer)', 'make >= 9999:1'];
  ends(
    t,
    await fails('others', { name: 'others', buildRequires: others }),
    30,
    / {2}make >= 9999:1 \(there is make-\d\S+\)\n {2}perl\(Test::Moer\) \(did you mean perl\(Test::More\)\?\)\n {2}pkgconfig\(libaa\)\n/,
  );
  const preamble = 'BuildConflicts: hostname, patch < 3, none';
  const spec = { name: 'conflicts', preamble, buildRequires: ['hostname'] };
  ends(
    t,
    await fails('conflicts', spec),
    1,
    /ERROR: the image has what BuildConflicts of the package rule out: hostname, patch < 3: [\s\S]*hint: leave them out/,
  );
  const syntax = await fails('syntax', SPEC.replace('%build', '%if 1\n%build'));
  ends(t, syntax, 1, /hint: mend the spec: .*line \d+: .*%if/);
  t.notRegex(syntax.stderr, /--sources/);
});

long('further failures are reported with their causes and hints', async (t) => {
  const arch = await fails('arch', SPEC.replace('BuildArch: noarch', 'ExclusiveArch: s390x'));
  ends(t, arch, 1, /ERROR: the package is not for x86_64: its ExclusiveArch/);
  t.notRegex(await readFile(join(results('arch'), 'build.log'), 'utf8'), /Executing\(%build\)/);
  const missing = await fails('missing', { name: 'missing', buildRequires: ['bizp2 >= 1'] });
  ends(t, missing, 30, /ERROR: no package provides:\n {2}bizp2 >= 1 \(did you mean bzip2\?\)/);
  const unpackaged = await fails('unpackaged', SPEC.replace('%files\n/usr/share/plain', '%files'));
  ends(t, unpackaged, 1, /hint: mend the spec: Installed .* found: \/usr\/share\/plain$/m);
  const source = await fails(
    'source',
    SPEC.replace('%description', 'Source0: no.tar\n%description'),
  );
  ends(t, source, 1, /hint: a Source or Patch of the spec is missing \(no\.tar\): --sources/);
});
