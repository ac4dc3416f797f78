/**
 * What Koji's and Copr's builders write and call. The configurations are those of koji.genMockConfig
 * (koji/__init__.py) and of copr-rpmbuild's mock.cfg.j2, the command lines those of kojid (BuildRoot) and
 * of copr_rpmbuild/builders/mock.py.
 */
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { sourcePackage } from '../build/source-packages.ts';
import { debianRepository } from '../image/image-state.ts';
import { long } from '../support/long.ts';
import { checkout, coprConfig, kojiConfig } from './builder-configs.ts';
import { type MockResult, type MockState, mockState } from './mock-state.ts';

let state: MockState;

test.before(async () => {
  state = await mockState('all');
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

function passes(t: ExecutionContext, result: MockResult): void {
  t.is(result.exitCode, 0, result.stderr);
}

test.serial('Koji’s configuration and calls work', async (t) => {
  const { directory } = await debianRepository();
  const basedir = join(state.directory, 'mock');
  const name = 'f44-build-12-345';
  await mkdir(join(state.configs, 'koji'), { recursive: true });
  await writeFile(
    join(state.configs, `koji/${name}.cfg`),
    kojiConfig({ name, basedir, directory }),
  );
  const koji = (...args: string[]) => state.mock(['-r', `koji/${name}`, ...args]);
  const made = await koji('--init');
  passes(t, made);
  t.is(made.stderr, '', 'no line of it is left out');
  const folder = await checkout(state.directory);
  const out = join(basedir, name, 'result');
  const spec = join(folder, 'task.spec');
  passes(
    t,
    await koji(
      ...['--no-clean', '--buildsrpm', '--spec', spec, '--sources', folder, '--target', 'noarch'],
    ),
  );
  const srpm = join(out, 'task-1-1.src.rpm');
  passes(t, await koji('--no-clean', '--target', 'noarch', '--rebuild', srpm));
  const rpm = join(out, 'task-1-1.noarch.rpm');
  const { stdout } = await execa('rpm', [
    '-qp',
    '--qf',
    '%{vendor} %{distribution} %{packager}',
    rpm,
  ]);
  t.is(stdout, 'Koji Koji Testing Koji');
  // What it uploads and looks at.
  const names = await readdir(out);
  for (const log of ['build.log', 'root.log', 'state.log', 'hw_info.log', 'installed_pkgs.log']) {
    t.true(names.includes(log), log);
  }
  t.regex(
    await readFile(join(out, 'build.log'), 'utf8'),
    /^of x86_64$[\s\S]*Child return code was: 0$/m,
  );
  // A package that does not build is status 1, what it lacks 30: kojid tells a broken root by that.
  const lacks = await sourcePackage(state.directory, { name: 'lacks', buildRequires: ['nobody'] });
  t.is((await koji('--no-clean', '--target', 'noarch', '--rebuild', lacks)).exitCode, 30);
  const bad = await sourcePackage(state.directory, { name: 'bad', build: 'exit 1' });
  t.is((await koji('--no-clean', '--target', 'noarch', '--rebuild', bad)).exitCode, 1);
  // It reads the root's rpm database by this path; kiln says that there is none.
  const path = await koji('--print-root-path');
  t.is(path.exitCode, 5);
  t.regex(path.stderr, /--copyin, --copyout and --chroot/);
  t.regex((await koji('--chroot', '--', 'rpm', '-qa')).stdout, /^rpm-/m);
  passes(t, await koji('--clean'));
});

test.serial('Copr’s configuration and calls work', async (t) => {
  const { directory } = await debianRepository();
  const resultdir = join(state.directory, 'copr-results');
  const configs = join(resultdir, 'configs');
  await mkdir(configs, { recursive: true });
  const child = join(configs, 'child.cfg');
  await writeFile(child, coprConfig(`${state.configs}/demo.cfg`, directory));
  const folder = await checkout(state.directory);
  const copr = (...args: string[]) => state.mock([...args, '-r', child]);
  const unique = ['--resultdir', resultdir, '--uniqueext', '1732724460.5'];
  const made = await copr(
    ...['--buildsrpm', '--spec', join(folder, 'task.spec'), '--sources', folder, ...unique],
    ...['--with', 'x', '--without', 'y'],
  );
  passes(t, made);
  const srpm = join(resultdir, 'task-1-1.copr42.src.rpm');
  passes(t, await copr('--rebuild', srpm, ...unique, '--with', 'x', '--without', 'y'));
  const rpm = join(resultdir, 'task-1-1.copr42.noarch.rpm');
  const { stdout } = await execa('rpm', ['-qp', '--qf', '%{vendor}|%{description}', rpm]);
  t.is(stdout, 'Copr - user somebody|Copr - user somebody somebody');
  // Configurations lie among the results, and stay.
  t.true((await readdir(configs)).includes('child.cfg'));
  passes(
    t,
    await copr('--scrub', 'bootstrap', '--scrub', 'chroot', '--scrub', 'root-cache', '--quiet'),
  );
  t.deepEqual(await readdir(state.engine.paths.roots).catch(() => []), []);
});

long(
  'for Copr, a Makefile of the checkout makes the source package in a host folder',
  async (t) => {
    const folder = await checkout(join(state.directory, 'workdir'));
    const results = join(state.directory, 'make-results');
    await mkdir(join(folder, '.copr'));
    await mkdir(results);
    await writeFile(
      join(folder, '.copr/Makefile'),
      'srpm:\n\ttest "$$(id -u)" = 0\n\trpmbuild -bs --define "_sourcedir $(CURDIR)" --define "_srcrpmdir $(outdir)" $(spec)\n',
    );
    const config = join(state.configs, 'make-srpm.cfg');
    await writeFile(
      config,
      `include('${state.configs}/demo.cfg')
config_opts['root'] = "make-srpm-method"
config_opts['rpmbuild_networking'] = True
config_opts['plugin_conf']['compress_logs_enable'] = False
config_opts['plugin_conf']['bind_mount_enable'] = True
config_opts['nspawn_args'] = ['--drop-capability=CAP_SYS_ADMIN']
`,
    );
    const binds = (target: string) =>
      `--plugin-option=bind_mount:dirs=(("${folder}", "/mnt/dist-git"), ("${results}", "${target}"))`;
    const make =
      'set -x && cd /mnt/dist-git && echo -e "[safe]\\ndirectory = /mnt/dist-git" > ~/.gitconfig && make -f /mnt/dist-git/.copr/Makefile srpm outdir="/mnt/out" spec="/mnt/dist-git/task.spec"';
    const owner = { SUDO_UID: '1234', SUDO_GID: '1234' };
    await execa('chown', ['-R', '1234:1234', folder, results]);
    const copr = async (...args: string[]) =>
      await state.mock(['--uniqueext', '1.5', '-r', config, ...args], { env: owner });
    const made = await copr(binds('/mnt/out'), '--chroot', make);
    passes(t, made);
    t.regex(made.stderr, /make-srpm\.cfg:6: nspawn_args is left out/);
    t.notRegex(made.stderr, /read-only/);
    const [file = ''] = await readdir(results);
    t.is(file, 'task-1-1.src.rpm');
    t.is((await stat(join(results, file))).uid, 1234);
    const { stdout } = await execa('rpm', ['-qpl', join(results, file)]);
    t.deepEqual(stdout.split('\n').sort(), ['source.txt', 'task.spec']);
    // Folders that the host needs stay as they are, and so does what a configuration names, and a build.
    const etc = binds('/mnt/out').replace(results, '/etc');
    const refused = await copr(etc, '--chroot', 'true');
    t.not(refused.exitCode, 0);
    t.regex(refused.stderr, /\/etc/);
    const own = config.replace('.cfg', '-own.cfg');
    await writeFile(
      own,
      `include('${config}')\nconfig_opts['plugin_conf']['bind_mount_opts']['dirs'] = [('${results}', '/mnt/out')]\n`,
    );
    const ownBind = await state.mock(['-r', own, '--chroot', 'touch /mnt/out/written']);
    t.not(ownBind.exitCode, 0);
    t.regex(ownBind.stderr, /make-results is read-only in the root/);
    const again = [
      '--rebuild',
      join(results, file),
      '--resultdir',
      join(state.directory, 'rebuilt'),
    ];
    const built = await copr(binds('/mnt/out'), ...again);
    passes(t, built);
    t.regex(built.stderr, /make-results is read-only in the root/);
    t.deepEqual(await readdir(results), ['task-1-1.src.rpm']);
  },
);
