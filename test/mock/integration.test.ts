/** What mock's own integration tests assert: which test of ours shows it, and the tests that nothing else has. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test from 'ava';
import { type SourceSpec, sourcePackage } from '../build/source-packages.ts';
import { createRepository } from '../repository/rpm-repository.ts';
import { long } from '../support/long.ts';
import { type MockState, mockState } from './mock-state.ts';

const roots = 'roots.test.ts';
const builds = 'builds.test.ts';
const here = 'integration.test.ts';
const STATUSES = [roots, 'commands have mock’s statuses and arguments'];
const CHAIN = [
  builds,
  '--chain builds in the order given, and --recurse comes back to what failed',
];
const REFUSED = ['options.test.ts', 'every option of mock is honoured, ignored with a reason'];
const UPDATED = [here, 'a root is made anew for an update, and once, as in mock’s 20-lvm-plugin'];
const LEFT_OUT = ['config.test.ts', 'settings that kiln cannot honour are named'];

/** Of each of mock's tests (integration-tests/NAME.tst) the file of ours and the beginning of a title in it. */
const SHOWN: Readonly<Record<string, readonly string[]>> = {
  '00-retcode': STATUSES,
  '001-orphanskill-explicit': STATUSES,
  '01-shell': STATUSES,
  '02-argpassing': STATUSES,
  '03-chroot-one-arg': STATUSES,
  '04-offline-tmpfs': [roots, '--config-opts, --enable-network, --disablerepo and --offline'],
  '05-orphanskill-std': STATUSES,
  '06-orphanskill-explicit': ['as-mock.test.ts', '--orphanskill ends what runs in the root'],
  '06-retcode': STATUSES,
  '07-init-clean': [roots, '--clean and --scrub remove a root, and --init makes it again'],
  '08-oldstyle-cmd': ['command-line.test.ts', 'options and arguments are read in any order'],
  '09-mockchain-fail': CHAIN,
  '10-mockchain-partial': CHAIN,
  '11-mockchain-success': CHAIN,
  '12-mockchain-recurse': CHAIN,
  '13-copyin': [roots, 'files are copied in and out, and no link leads out of the root'],
  '13-mockchain-gen-br': [here, 'a chain builds a package that generates what it requires'],
  '14-mock-multiple': [here, 'several source packages can share a result directory'],
  '15-overlayfs-layers': [
    'snapshots.test.ts',
    'the layers of a root are those that mock’s 15-overlayfs-layers has',
  ],
  '16-spec-and-multiple-srpms-fail': ['as-mock.test.ts', '--spec with one source package'],
  '17-spec-and-rebuild': [builds, '--buildsrpm makes a source package'],
  '18-spec-sources-and-rebuild': [builds, '--buildsrpm makes a source package'],
  '19-sign-plugin': [builds, 'the plugin sign uses the key of the caller’s gpg'],
  '20-lvm-plugin': UPDATED,
  '21-mockchain-image': REFUSED,
  '22-rootdir': REFUSED,
  '23-local-mirrorlist': [
    'as-mock.test.ts',
    'source packages may be URLs, and a mirrorlist may be a path',
  ],
  '24-postinstall': [builds, '--additional-package, --enable-network and --postinstall'],
  '25-postupdate-root-cache': UPDATED,
  '26-external-deps': LEFT_OUT,
  '27-nspawn': [here, 'the parent of a command is the init of its sandbox'],
  '28-nspawn-host-dev': LEFT_OUT,
};

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

test('each of mock’s tests has one of ours, or a reason in the documentation', async (t) => {
  const docs = await readFile(join(import.meta.dirname, '../../docs/kiln-mock.md'), 'utf8');
  const table = docs.slice(docs.indexOf("## mock's own tests"));
  const rows = [...table.matchAll(/^\| (\d[^|]*) \| (same|adapted|refused) \|(.*)\|$/gm)];
  const documented = rows.flatMap(([, names = '']) => names.split(', '));
  t.deepEqual(documented.toSorted(), Object.keys(SHOWN).toSorted());
  t.true(documented.length >= 29);
  for (const [file = '', title = ''] of Object.values(SHOWN)) {
    const text = await readFile(join(import.meta.dirname, file), 'utf8');
    t.true(text.includes(`'${title}`), `${file}: ${title}`);
  }
  const refused = rows.filter(([, , how]) => how === 'refused');
  t.true(refused.length <= 6);
  for (const [line, , , reason = ''] of refused) t.true(reason.trim().length > 10, line);
});

long('a chain builds a package that generates what it requires', async (t) => {
  const needed = await srpm({ name: 'gena' });
  const asking = await srpm({
    name: 'genb',
    sections: '%generate_buildrequires\necho gena-devel',
  });
  const localrepo = join(state.directory, 'generated');
  const made = await state.mock(['--chain', '--localrepo', localrepo, needed, asking]);
  t.is(made.exitCode, 0, made.stderr);
  const folder = join(localrepo, 'results/demo', basename(asking, '.src.rpm'));
  t.true(existsSync(join(folder, 'success')));
  t.regex(await readFile(join(folder, 'installed_pkgs.log'), 'utf8'), /^gena-devel-1-1/m);
});

test.serial('several source packages can share a result directory', async (t) => {
  const [one, two] = [await srpm({ name: 'one' }), await srpm({ name: 'two' })];
  const out = join(state.directory, 'several');
  const made = await state.mock(['--rebuild', one, two, '--resultdir', out]);
  t.is(made.exitCode, 0, made.stderr);
  for (const name of ['one', 'two']) t.true(existsSync(join(out, `${name}-1-1.noarch.rpm`)), name);
});

// The steps of mock’s test, with an image in place of a volume: which image a build has says whether `postinit` was made anew.
test.serial(
  'a root is made anew for an update, and once, as in mock’s 20-lvm-plugin',
  async (t) => {
    const repository = join(state.directory, 'lvm');
    await mkdir(repository);
    await createRepository(repository);
    const write = async (more: string) =>
      await writeFile(
        join(state.configs, 'lvm.cfg'),
        `include('demo.cfg')
config_opts['root'] = 'lvm'
config_opts['plugin_conf']['root_cache_enable'] = False
config_opts['plugin_conf']['lvm_root_enable'] = True
config_opts['plugin_conf']['lvm_root_opts'] = {'volume_group': 'mock', 'size': '4G', 'pool_name': 'pool'}
${more}
config_opts['dnf.conf'] += '''
[local_repo]
baseurl=${pathToFileURL(repository)}
gpgcheck=0
metadata_expire=0
skip_if_unavailable=0
'''
`,
      );
    await write('');
    const call = async (...words: string[]) => {
      const { exitCode, stderr } = await state.mock(['-r', 'lvm', ...words]);
      t.is(exitCode, 0, stderr);
    };
    const [first, second] = [
      await srpm({ name: 'bumped-version' }),
      await srpm({ name: 'bumped-version', version: '2' }),
    ];
    const rebuilt = async (source: string) => {
      await call('--rebuild', source, '--resultdir', repository);
      const { image } = JSON.parse(await readFile(join(repository, 'result.json'), 'utf8'));
      const packages = await readFile(join(repository, 'installed_pkgs.log'), 'utf8');
      return { image: image.id, has: /^bumped-version-(\d)/m.exec(packages)?.[1] };
    };
    t.is((await rebuilt(first)).has, undefined);
    await createRepository(repository);
    await call('--scrub=chroot', '--scrub=lvm');
    await write("config_opts['chroot_setup_cmd'] += ' bumped-version'");
    const added = await rebuilt(second);
    t.is(added.has, '1');
    await createRepository(repository);
    const updated = await rebuilt(second);
    t.is(updated.has, '2');
    t.not(updated.image, added.image);
    t.deepEqual(await rebuilt(second), updated);
    await call('--shell', '/bin/true');
    await call('--scrub=all');
    await call('--scrub=all');
  },
);

test.serial('the parent of a command is the init of its sandbox', async (t) => {
  const { exitCode, stdout, stderr } = await state.mock(['--shell', 'echo $PPID']);
  t.is(exitCode, 0, stderr);
  t.is(stdout, '1');
});
