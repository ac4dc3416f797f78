import { existsSync } from 'node:fs';
import {
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test from 'ava';
import { execa } from 'execa';
import { makeKey, rpmkeys } from '../build/signing-keys.ts';
import { type SourceSpec, sourcePackage } from '../build/source-packages.ts';
import { debianRepository } from '../image/image-state.ts';
import { eventually } from '../support/eventually.ts';
import { QUICK_PASSPHRASES } from '../support/gnupg-home.ts';
import { kill } from '../support/killing.ts';
import { long } from '../support/long.ts';
import { ownSeconds } from '../support/processes.ts';
import { ends, type MockState, mockState } from './mock-state.ts';

let state: MockState;

test.before(async () => {
  state = await mockState('all');
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

/** What rpm on this host says of a package file. */
async function query(file: string, format: string): Promise<string> {
  return (await execa('rpm', ['-qp', '--nosignature', '--qf', format, file])).stdout;
}

/** What is in the files of a package. */
async function content(rpm: string): Promise<string> {
  const script = 'rpm2cpio "$1" | cpio -i --quiet --to-stdout';
  return (await execa('sh', ['-c', script, 'sh', rpm])).stdout;
}

test.serial('--isolation=vm is for builds alone, in roots that do not stay', async (t) => {
  for (const words of [
    ['--chroot', 'true'],
    ['--init'],
    ['--rebuild', '--no-clean', 'x.src.rpm'],
  ]) {
    const [mode = ''] = words.filter((word) => !/rebuild|x\.src|true/.test(word));
    const refused = await state.mock(['--isolation=vm', ...words]);
    ends(t, refused, 5, new RegExp(`--isolation=vm with ${mode}: a machine cannot have a root`));
  }
  const idle = await state.mock(['--isolation=nspawn', '--clean'], { verbosity: '-v' });
  ends(t, idle, 0, /--isolation changes nothing: every command runs in a libvirt-lxc sandbox/);
});

test.serial(
  '--rebuild prints mock’s words on stderr, and uses mock’s names of files',
  async (t) => {
    const good = await srpm({ name: 'good', build: 'echo to build.log; echo "$0 $(id -un)"' });
    const out = results('good');
    const result = await state.mock(['--rebuild', good, '--resultdir', out], { verbosity: '-v' });
    t.is(result.exitCode, 0, result.stderr);
    t.is(result.stdout, '');
    const words = [
      'Start: run',
      'INFO: Start(good-1-1.src.rpm)  Config(demo-x86_64)',
      'Start: clean chroot',
      'Finish: clean chroot',
      'Start: chroot init',
      'Finish: chroot init',
      'Start: build phase for good-1-1.src.rpm',
      'Start: rpmbuild good-1-1.src.rpm',
      'to build.log',
      'Finish: rpmbuild good-1-1.src.rpm',
      'Finish: build phase for good-1-1.src.rpm',
      'INFO: Done(good-1-1.src.rpm) Config(demo-x86_64) ',
      `INFO: Results and/or logs in: ${out}`,
      "INFO: Cleaning up build root ('cleanup_on_success=True')",
      'Finish: run',
    ];
    let from = 0;
    for (const word of words) {
      const at = result.stderr.indexOf(word, from);
      t.true(at >= 0, `${word} is missing, or at another place, in\n${result.stderr}`);
      from = Math.max(from, at);
    }
    const names = await readdir(out);
    for (const name of [
      'build.log',
      'root.log',
      'state.log',
      'hw_info.log',
      'installed_pkgs.log',
      'good-1-1.noarch.rpm',
      'good-devel-1-1.noarch.rpm',
      'good-1-1.src.rpm',
    ]) {
      t.true(names.includes(name), `${name} of ${names.join(', ')}`);
    }
    t.is(await query(join(out, 'good-1-1.noarch.rpm'), '%{nevra}'), 'good-1-1.noarch');
    // The host's user and shell have no part in it.
    t.regex(await readFile(join(out, 'build.log'), 'utf8'), /^\/\S+ mockbuild$/m);
    // The results lie elsewhere: nothing is left of the root.
    t.deepEqual(await readdir(state.engine.paths.roots).catch(() => []), []);
  },
);

test.serial(
  '--additional-package, --enable-network and --postinstall change the build',
  async (t) => {
    await execa('createrepo_c', ['-q', results('good')]);
    const asks = await srpm({
      name: 'asks',
      preamble: 'Requires: nobody-has-this',
      build: 'readlink /proc/self/ns/net',
    });
    const out = results('asks');
    const result = await state.mock([
      ...['--rebuild', asks, '--resultdir', out, '--addrepo', results('good')],
      ...['--additional-package', 'good-devel', '--enable-network', '--postinstall'],
    ]);
    // It was built, and cannot be installed.
    ends(t, result, 30, /nobody-has-this/);
    const log = await readFile(join(out, 'build.log'), 'utf8');
    t.true(log.split('\n').includes(await readlink('/proc/self/ns/net')), log);
    t.is(await content(join(out, 'asks-devel-1-1.noarch.rpm')), 'asks-1 (good-1)');
  },
);

test.serial('failed builds and missing requirements are reported as by mock', async (t) => {
  const bad = await srpm({ name: 'bad', build: 'echo the compiler is cross >&2; exit 1' });
  const failed = await state.mock(['--rebuild', bad, '--resultdir', results('bad')]);
  ends(t, failed, 1, /ERROR: %build failed[\s\S]*the compiler is cross/);
  const generates = await srpm({
    name: 'generates',
    sections: '%generate_buildrequires\nexit 3',
  });
  const generated = await state.mock([generates, '--resultdir', results('generates')]);
  ends(t, generated, 1, /%generate_buildrequires failed/);
  const needs = await srpm({ name: 'needs', buildRequires: ['nobody-provides-this'] });
  ends(t, await state.mock([needs, '--resultdir', results('needs')]), 30, /nobody-provides-this/);
  const slow = await srpm({ name: 'slow', build: 'sleep 3600' });
  const timed = ['--rpmbuild_timeout', '2', '--resultdir', results('slow'), slow];
  ends(t, await state.mock(timed), 11, /it ran out of time[\s\S]*--rpmbuild_timeout/);
  const noSrpm = join(state.directory, 'no.src.rpm');
  await writeFile(noSrpm, 'this is no package');
  ends(t, await state.mock([noSrpm, '--resultdir', results('no')]), 1, /not a source package/);
  ends(
    t,
    await state.mock(['--rebuild', bad, '--resultdir', '/proc/doesnotwork']),
    70,
    /\/proc\/doesnotwork/,
  );
  ends(t, await state.mock(['--rebuild']), 50, /No package specified/);
  ends(t, await state.mock([bad, slow]), 5, /Must specify --resultdir/);
  ends(t, await state.mock(['-D', 'nothing', bad]), 5, /Bad option for '--define'/);
  ends(t, await state.mock(['--buildsrpm', '--spec', 'x']), 5, /specfile does not exist/);
  ends(
    t,
    await state.mock(['--buildsrpm', '--spec', 'x', '--sources', '.']),
    5,
    /specfile does not exist/,
  );
});

const SPEC = `Name: spec
Version: 1
Release: 1
Summary: x
License: MIT
BuildArch: noarch
Source0: source.txt
%bcond_with extra
%description
%{who} %{demo}
%build
%install
mkdir -p %{buildroot}/usr/share
cp %{SOURCE0} %{buildroot}/usr/share/spec
%if %{with extra}
echo extra >> %{buildroot}/usr/share/spec
%endif
%check
exit 7
%files
/usr/share/spec
`;

long('a mistyped argument leaves a root that stays untouched', async (t) => {
  const good = await srpm({ name: 'good', build: 'echo "DEMO is $DEMO"' });
  t.is((await state.mock(['--init'])).exitCode, 0);
  t.is((await state.mock(['--chroot', 'touch /mark'])).exitCode, 0);
  const out = results('mistyped');
  const mistyped = await state.mock([good, 'good.src.rpn', '--resultdir', out]);
  ends(t, mistyped, 1, /cannot read the source package \S+good\.src\.rpn: it does not exist/);
  t.false((await readdir(out)).includes('good-1-1.noarch.rpm'));
  t.is((await state.mock(['--chroot', 'ls /mark'])).stdout, '/mark');

  // What the configuration says of the environment counts now, in a root that was made before.
  const cfg = join(state.configs, 'later.cfg');
  const later = "include('demo.cfg')\nconfig_opts['environment']['DEMO'] = 'later'\n";
  await writeFile(cfg, later);
  t.is((await state.mock(['-r', cfg, '--chroot', 'echo $DEMO'])).stdout, 'later');
  const built = await state.mock(['-r', cfg, '-n', '--postinstall', good]);
  t.is(built.exitCode, 0, built.stderr);
  const log = `${state.engine.paths.root}/mock/demo-x86_64/result/build.log`;
  t.regex(await readFile(log, 'utf8'), /^DEMO is later$/m);
  const left = await state.mock(['--chroot', 'rpm -q good; ls /mark']);
  t.is(left.stdout, 'good-1-1.noarch\n/mark');

  const asks = await srpm({ name: 'asks-more', preamble: 'Requires: nobody-has-this' });
  ends(t, await state.mock(['-n', '--postinstall', asks]), 30, /nobody-has-this/);
  const result = JSON.parse(await readFile(log.replace('build.log', 'result.json'), 'utf8'));
  t.is(result.failure?.phase, 'postinstall');
  const names = await readdir(dirname(log));
  t.true(names.includes('asks-more-1-1.noarch.rpm'));
  for (const name of ['SHA256SUMS', 'provenance.json']) t.false(names.includes(name), name);
  t.is((await state.mock(['--clean'])).exitCode, 0);
});

test.serial('--buildsrpm makes a source package, and --rebuild builds a spec', async (t) => {
  const sources = join(state.directory, 'sources');
  await mkdir(sources);
  await writeFile(join(sources, 'source.txt'), 'from the host\n');
  const spec = join(state.directory, 'spec.spec');
  await writeFile(spec, SPEC);
  const out = results('srpm');
  const made = await state.mock([
    '--buildsrpm',
    '--spec',
    spec,
    '--sources',
    join(sources, 'source.txt'),
    '--resultdir',
    out,
  ]);
  t.is(made.exitCode, 0, made.stderr);
  t.is(await query(join(out, 'spec-1-1.src.rpm'), '%{name} %{sourcepackage}'), 'spec 1');
  t.false((await readdir(out)).includes('spec-1-1.noarch.rpm'));
  const elsewhere = join(sources, 'elsewhere.spec');
  await writeFile(elsewhere, SPEC.replace('BuildArch: noarch', 'ExclusiveArch: s390x'));
  const foreign = ['--buildsrpm', '--spec', elsewhere, '--sources', sources];
  const away = await state.mock([...foreign, '--resultdir', results('elsewhere')]);
  t.is(away.exitCode, 0, away.stderr);
  t.true((await readdir(results('elsewhere'))).includes('spec-1-1.src.rpm'));

  const options = [
    '--nocheck',
    '--with',
    'extra',
    '-D',
    '%who nobody',
    '--resultdir',
    results('spec'),
  ];
  const built = await state.mock(['--rebuild', '--spec', spec, '--sources', sources, ...options]);
  t.is(built.exitCode, 0, built.stderr);
  const rpm = join(results('spec'), 'spec-1-1.noarch.rpm');
  t.is((await query(rpm, '%{description}')).trim(), 'nobody of demo-x86_64');
  t.is(await content(rpm), 'from the host\nextra');
  const checked = await state.mock([
    '--spec',
    spec,
    '--sources',
    sources,
    '--resultdir',
    results('check'),
  ]);
  ends(t, checked, 1, /ERROR: %check failed/);
});

test.serial('--init, and builds that do not clean, keep the root, as Koji needs it', async (t) => {
  const good = await srpm({ name: 'good' });
  const { directory } = await debianRepository();
  const basedir = join(state.directory, 'koji');
  await mkdir(join(state.configs, 'koji'));
  await writeFile(
    join(state.configs, 'koji/demo-build-1-2.cfg'),
    `# Auto-generated by the Koji build system
config_opts['basedir'] = '${basedir}'
config_opts['chroot_setup_cmd'] = 'groupinstall buildsys-build'
config_opts['chroothome'] = '/builddir'
config_opts['dnf_warning'] = False
config_opts['root'] = 'demo-build-1-2'
config_opts['rpmbuild_networking'] = False
config_opts['rpmbuild_timeout'] = 86400
config_opts['target_arch'] = 'x86_64'
config_opts['use_host_resolv'] = False
config_opts['yum.conf'] = '[main]\\ngpgcheck=0\\n\\n# repos\\n\\n[build]\\nname=build\\nbaseurl=${pathToFileURL(directory)}\\n'
config_opts['plugin_conf']['ccache_enable'] = False
config_opts['macros']['%_buildshell'] = '/bin/bash'
config_opts['macros']['%vendor'] = 'Koji'
`,
  );
  const koji = (...args: string[]) => state.mock(['-r', 'koji/demo-build-1-2', ...args]);
  const made = await koji('--init');
  t.is(made.exitCode, 0);
  t.is(made.stderr, '');
  const built = await koji('--no-clean', '--target', 'noarch', '--rebuild', good);
  t.is(built.exitCode, 0, built.stderr);
  const rpm = join(basedir, 'demo-build-1-2/result/good-1-1.noarch.rpm');
  t.is(await query(rpm, '%{vendor}'), 'Koji');
  const left = await koji('--chroot', 'ls /builddir/build/RPMS; stat -c %U /builddir/build');
  t.is(left.stdout, 'good-1-1.noarch.rpm\ngood-devel-1-1.noarch.rpm\nmockbuild');
  t.is((await koji('--clean')).exitCode, 0);
});

long('-N keeps the root as the build left it, and --short-circuit goes on in it', async (t) => {
  const dependency = await srpm({ name: 'dependency' });
  const repository = results('dependency');
  t.is((await state.mock(['--resultdir', repository, dependency])).exitCode, 0);
  await execa('createrepo_c', ['-q', repository]);
  const add = ['--addrepo', repository, '--resultdir', results('stepwise')];
  const stepwise = await srpm({
    name: 'stepwise',
    buildRequires: ['dependency-devel'],
    build: 'echo once >> count',
    sections: '%check\ntest -f ../../../retry\ncat count',
  });
  const failed = await state.mock([...add, '-N', stepwise]);
  ends(t, failed, 1, /%check failed/);
  const look = await state.mock([
    '--chroot',
    'rpm -q dependency-devel; find /builddir -name count | xargs cat',
  ]);
  t.is(look.stdout, 'dependency-devel-1-1.noarch\nonce');
  // Nothing of it was compiled again.
  await state.mock([
    '--chroot',
    'touch /builddir/build/retry /builddir/retry; cd /builddir/build/BUILD/*/; pwd',
  ]);
  const circuit = await state.mock([
    ...add,
    '--short-circuit',
    'install',
    '--nocheck',
    '-N',
    stepwise,
  ]);
  t.is(circuit.exitCode, 0, circuit.stderr);
  const again = await state.mock(['--chroot', 'find /builddir -name count | xargs cat']);
  t.is(again.stdout, 'once');
  // In a root that was changed, a build has what is there and what it requires.
  await state.mock(['--chroot', 'echo changed > /etc/changed; rpm -e dependency-devel']);
  const there = await srpm({
    name: 'there',
    buildRequires: ['dependency-devel'],
    build: 'cat /etc/changed; rpm -q dependency-devel',
  });
  const built = await state.mock([
    '-n',
    '--cleanup-after',
    '--addrepo',
    repository,
    '--resultdir',
    results('there'),
    there,
  ]);
  t.is(built.exitCode, 0, built.stderr);
  t.regex(
    await readFile(join(results('there'), 'build.log'), 'utf8'),
    /^changed\n\+ .*\ndependency-devel-1-1.noarch$/m,
  );
  t.deepEqual(await readdir(state.engine.paths.roots), []);
});

long('--installdeps installs what source packages and specs require', async (t) => {
  const repository = results('dependency');
  const wants = await srpm({ name: 'wants', buildRequires: ['dependency-devel >= 1'] });
  const result = await state.mock(['--addrepo', repository, '--installdeps', wants]);
  t.is(result.exitCode, 0, result.stderr);
  t.is(
    (await state.mock(['--chroot', 'rpm -q dependency-devel'])).stdout,
    'dependency-devel-1-1.noarch',
  );
  const calculated = await state.mock([
    '--addrepo',
    repository,
    '--calculate-build-dependencies',
    wants,
    '--resultdir',
    results('calculated'),
  ]);
  t.is(calculated.exitCode, 0, calculated.stderr);
  const lock = await readFile(join(results('calculated'), 'buildroot_lock.json'), 'utf8');
  const { buildroot } = JSON.parse(lock) as { buildroot: { rpms: { name: string }[] } };
  t.true(buildroot.rpms.some(({ name }) => name === 'dependency-devel'));
  t.false((await readdir(results('calculated'))).includes('wants-1-1.noarch.rpm'));
  const spec = join(state.directory, 'deps.spec');
  await writeFile(
    spec,
    'Name: deps\nVersion: 1\nRelease: 1\nSummary: x\nLicense: MIT\nSource0: not-there.tar.gz\nBuildRequires: %{wanted}\n%description\n',
  );
  t.is(
    (await state.mock(['--addrepo', repository, '-D', 'wanted dependency', '--installdeps', spec]))
      .exitCode,
    0,
  );
  t.is((await state.mock(['--chroot', 'rpm -q dependency'])).stdout, 'dependency-1-1.noarch');
  t.is((await state.mock(['--clean'])).exitCode, 0);
});

long('--chain builds in the order given, and --recurse comes back to what failed', async (t) => {
  const a = await srpm({ name: 'cha', buildRequires: ['chb-devel'] });
  const b = await srpm({ name: 'chb', buildRequires: ['chc-devel'] });
  const c = await srpm({ name: 'chc' });
  const localrepo = join(state.directory, 'localrepo');
  const chain = (...more: string[]) => state.mock(['--chain', '--localrepo', localrepo, ...more]);
  ends(t, await chain(a, b, c), 4, /Success building 0 out of 3/);
  const folder = join(localrepo, 'results/demo');
  t.true(existsSync(join(folder, 'cha-1-1/fail')));
  t.false(existsSync(join(folder, 'chc-1-1')));
  const result = await chain('--recurse', a, b, c);
  t.is(result.exitCode, 0, result.stderr);
  for (const file of [a, b, c]) {
    const directory = join(folder, basename(file, '.src.rpm'));
    t.true(existsSync(join(directory, 'success')));
    t.false(existsSync(join(directory, 'fail')));
  }
  // Each was built with what came of the one before, by its own word.
  const rpm = join(folder, 'cha-1-1/cha-devel-1-1.noarch.rpm');
  t.is(await content(rpm), 'cha-1 (chb-1 (chc-1))');
  ends(t, await chain('--resultdir', 'x', a), 5, /use --localrepo instead/);
  ends(t, await chain('missing.src.rpm'), 50, /No such file/);
});

test.serial('--chain refuses a --localrepo where nothing can be made', async (t) => {
  const file = await srpm({ name: 'lost' });
  // In /proc, Node's own recursive mkdir never returns.
  const proc = await state.mock(['--chain', '--localrepo', '/proc/kiln-test', file]);
  ends(t, proc, 70, /\/proc\/kiln-test cannot be used/);
  const taken = await state.mock(['--chain', '--localrepo', '/etc/passwd', file]);
  ends(t, taken, 70, /hint: name a folder that can be written/);
});

test.serial(
  'the plugin sign uses the key of the caller’s gpg, and no package goes unsigned',
  async (t) => {
    const good = await srpm({ name: 'good' });
    const key = await makeKey(state.directory, 'ed25519');
    // gpg's agent has a socket there: the path must be short.
    const home = await mkdtemp('/tmp/kg-');
    t.teardown(async () => {
      await execa('gpgconf', ['--homedir', home, '--kill', 'all'], { reject: false });
      await rm(home, { recursive: true, force: true });
    });
    await execa('gpg', ['--batch', '--quiet', '--homedir', home, '--import', key.secret]);
    const config = join(state.directory, 'signed.cfg');
    const signed = async (opts: string, out: string) => {
      const text = `include('demo.cfg')
config_opts['plugin_conf']['sign_enable'] = True
config_opts['plugin_conf']['sign_opts'] = {'cmd': 'rpmsign', 'opts': '${opts}'}
`;
      await writeFile(config, text);
      return await state.mock(['--rebuild', good, '--resultdir', results(out), '-r', config]);
    };
    const define = `-D "%%_gpg_path ${home}"`;
    const done = await signed(`--addsign %(rpms)s -D "%%_gpg_name kiln" ${define}`, 'signed');
    t.is(done.exitCode, 0, done.stderr);
    t.notRegex(done.stderr, /left out: .*sign|plugin sign/);
    for (const file of (await readdir(results('signed'))).filter((it) => it.endsWith('.rpm'))) {
      const { ok, text } = await rpmkeys(state.directory, join(results('signed'), file), [
        key.public,
      ]);
      t.true(ok, text);
      t.regex(text, /Header V4 EdDSA/);
    }
    const unknown = await signed(`--addsign %(rpms)s --key-id nobody ${define}`, 'unsigned');
    t.not(unknown.exitCode, 0);
    t.regex(unknown.stderr, /gpg has no secret key called nobody/);
    t.false(existsSync(results('unsigned')), 'it is said before anything is built');
    // The command line switches plugins, too: here what comes first is the key, then the package.
    const none = join(state.directory, 'none.src.rpm');
    await writeFile(none, 'this is no package');
    const off = ['--disable-plugin=sign', none, '--resultdir', results('off'), '-r', config];
    ends(t, await state.mock(off), 1, /not a source package/);
    const opts = `--addsign %(rpms)s --key-id nobody -D "%%_gpg_path ${home}"`;
    const on = ['--enable-plugin', 'sign', '--plugin-option', `sign:opts=${opts}`, none];
    ends(t, await state.mock(on), 1, /gpg has no secret key called nobody/);
  },
);

test.serial('the plugin sign starts nothing that a configured home of gpg names', async (t) => {
  const good = await srpm({ name: 'good' });
  const home = await mkdtemp('/tmp/kg-');
  t.teardown(async () => {
    await execa('gpgconf', ['--homedir', home, '--kill', 'all'], { reject: false });
    await rm(home, { recursive: true, force: true });
  });
  await writeFile(join(home, 'gpg-agent.conf'), QUICK_PASSPHRASES);
  const gpg = ['--batch', '--quiet', '--homedir', home, '--pinentry-mode', 'loopback'];
  const make = ['--passphrase', 'secret', '--quick-gen-key', 'locked', 'ed25519', 'sign', 'never'];
  await execa('gpg', [...gpg, ...make]);
  await execa('gpg', [
    ...gpg,
    '--passphrase',
    '',
    '--quick-gen-key',
    'open',
    'ed25519',
    'sign',
    'never',
  ]);
  await execa('gpgconf', ['--homedir', home, '--kill', 'all']);
  const [evil, marker] = [join(state.directory, 'evil'), join(state.directory, 'evil-was-run')];
  await writeFile(evil, `#!/bin/sh\necho "$0" >> ${marker}\n`, { mode: 0o755 });
  await writeFile(
    join(home, 'gpg.conf'),
    `agent-program ${evil}\nkeyserver-options auto-key-retrieve\n`,
  );
  await writeFile(
    join(home, 'gpg-agent.conf'),
    `pinentry-program ${evil}\nscdaemon-program ${evil}\n`,
  );
  const config = join(state.directory, 'evil.cfg');
  const signed = async (name: string, from: string, out: string) => {
    const opts = `--addsign %(rpms)s -D "%%_gpg_name ${name}" -D "%%_gpg_path ${from}"`;
    const text = `include('demo.cfg')
config_opts['plugin_conf']['sign_enable'] = True
config_opts['plugin_conf']['sign_opts'] = {'cmd': 'rpmsign', 'opts': '${opts}'}
`;
    await writeFile(config, text);
    return await state.mock(['--rebuild', good, '--resultdir', results(out), '-r', config]);
  };
  const open = await signed('open', home, 'evil-open');
  t.is(open.exitCode, 0, open.stderr);
  const [rpm = ''] = (await readdir(results('evil-open'))).filter((it) => it.endsWith('.src.rpm'));
  t.not(await query(join(results('evil-open'), rpm), '%{RSAHEADER:pgpsig}%{DSAHEADER:pgpsig}'), '');
  ends(t, await signed('locked', home, 'evil-locked'), 1, /no secret key called locked/);
  // Neither a fifo nor a link in the place of a keyring.
  await rm(join(home, 'pubring.kbx'));
  await execa('mkfifo', [join(home, 'pubring.kbx')]);
  ends(t, await signed('open', home, 'evil-fifo'), 1, /no secret key called open/);
  t.false(existsSync(marker), 'a program of the home was started');
  // Others of this machine sign at the same time; theirs go, too.
  const left = async () =>
    (await readdir('/dev/shm')).filter((name) => name.startsWith('kiln-gpg-'));
  const suspects = await left();
  t.true(
    await eventually(async () => !(await left()).some((name) => suspects.includes(name))),
    suspects.join(),
  );
});

test.serial('--chain does not follow links in its local repository', async (t) => {
  const [good, bad] = [await srpm({ name: 'good' }), await srpm({ name: 'bad', build: 'exit 1' })];
  const local = join(state.directory, 'planted');
  const results = join(local, 'results', 'demo');
  const victim = join(state.directory, 'victim');
  await writeFile(victim, 'precious');
  const plant = async (name: string, link: string, target = victim) => {
    await mkdir(join(results, name), { recursive: true });
    await symlink(target, join(results, name, link));
  };
  await plant('good-1-1', 'fail');
  await plant('good-1-1', 'success', join(state.directory, 'made-by-success'));
  await plant('bad-1-1', 'fail');
  await plant('bad-1-1', 'build.log');
  const run = (...args: string[]) => state.mock(['--chain', '--localrepo', local, ...args]);
  t.is((await run('-c', good, bad)).exitCode, 4);
  t.is(await readFile(victim, 'utf8'), 'precious');
  t.false(existsSync(join(state.directory, 'made-by-success')));
  t.true((await lstat(join(results, 'good-1-1', 'success'))).isFile());
  t.true((await lstat(join(results, 'bad-1-1', 'fail'))).isFile());
  // Nor are folders, and the lock of the repository.
  await rm(join(results, 'repository', 'lock'));
  await plant('repository', 'lock', join(state.directory, 'made-by-lock'));
  t.not((await run(good)).exitCode, 0);
  t.false(existsSync(join(state.directory, 'made-by-lock')));
  await rm(local, { recursive: true });
  await mkdir(results, { recursive: true });
  const elsewhere = join(state.directory, 'elsewhere');
  await mkdir(elsewhere);
  await symlink(elsewhere, join(results, 'good-1-1'));
  ends(t, await run(good), 70, /result folder .*good-1-1 cannot be used/);
  t.deepEqual(await readdir(elsewhere), []);
});

long('two builds of one configuration run at once, each with its --uniqueext', async (t) => {
  // What an earlier build made is a repository of these.
  const good = await srpm({ name: 'good', buildRequires: ['dependency'] });
  const child = join(state.directory, 'child.cfg');
  await writeFile(
    child,
    `include('demo.cfg')
config_opts.setdefault('plugin_conf', {})
config_opts['plugin_conf'].setdefault('tmpfs_opts', {})
config_opts['plugin_conf']['tmpfs_opts']['keep_mounted'] = True
config_opts['chroot_additional_packages'] = 'dependency-devel'
config_opts['macros']['%buildtag'] = '.copr123'
config_opts['use_bootstrap'] = True
config_opts[f"{config_opts.package_manager}.conf"] += """
[copr_base]
name='Copr repository'
baseurl=file://${results('dependency')}/
gpgcheck=0
enabled=1
skip_if_unavailable=0
metadata_expire=0
cost=1
best=1
"""
`,
  );
  const copr = (...args: string[]) => state.mock([...args, '-r', child]);
  const both = await Promise.all(
    ['1', '2'].map((uniqueext) =>
      copr('--rebuild', good, '--resultdir', results(uniqueext), '--uniqueext', uniqueext),
    ),
  );
  t.deepEqual(
    both.map(({ exitCode }) => exitCode),
    [0, 0],
    both.map(({ stderr }) => stderr).join('\n'),
  );
  const [one, two] = await Promise.all(
    ['1', '2'].map((name) =>
      query(join(results(name), 'good-1-1.noarch.rpm'), '[%{filenames} %{filedigests}\n]'),
    ),
  );
  t.regex(one ?? '', /^\/usr\/share\/good\/main [0-9a-f]{64}$/m);
  t.is(one, two);
  const installed = await readFile(join(results('1'), 'installed_pkgs.log'), 'utf8');
  t.regex(installed, /^dependency-1-1\.noarch /m);
  t.regex(installed, /^dependency-devel-1-1\.noarch /m);
  t.is((await copr('--scrub', 'bootstrap', '--scrub', 'chroot', '--quiet')).exitCode, 0);
});

test.serial(
  'a killed sandbox is not reported as a failure of rpmbuild or of a command',
  async (t) => {
    const mark = ownSeconds();
    const slow = await srpm({ name: 'unlucky', build: `trap 'exit 3' TERM; sleep ${mark} & wait` });
    const calls = [
      [['--rebuild', slow, '--resultdir', results('unlucky')], 80],
      [['--chroot', `sleep ${mark}; exit 1`], 80],
    ] as const;
    for (const [words, status] of calls) {
      const call = state.mock(words);
      await kill('libvirt_lxc', mark);
      ends(t, await call, status, /ended before its command did/);
    }
  },
);

long('a killed build leaves nothing, and the next call makes the root again', async (t) => {
  const slow = await srpm({ name: 'slow', build: 'sleep 3600' });
  const main = join(import.meta.dirname, '../../src/programs/command-line.ts');
  for (const moment of ['Start: chroot init', 'Start: rpmbuild']) {
    const build = execa(
      process.execPath,
      [main, 'mock', '--configdir', state.configs, '-r', 'demo', slow],
      { env: { ...state.env, HOME: state.directory }, reject: false, stdin: 'ignore' },
    );
    for await (const line of build.iterable({ from: 'stderr' })) {
      if (line.startsWith(moment)) build.kill('SIGKILL');
    }
    await build;
    const next = await state.mock(['--chroot', 'ls /builddir; pgrep sleep; true']);
    t.is(next.exitCode, 0, next.stderr);
    t.is(next.stdout, '');
    t.is(
      /it was being changed when kiln was killed/.test(next.stderr),
      moment.endsWith('rpmbuild'),
    );
    t.deepEqual(await readdir(state.engine.paths.sandboxes), []);
  }
});
