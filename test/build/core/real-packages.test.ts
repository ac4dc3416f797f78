/**
 * Real packages, built by kiln in each of its ways, are what rpmbuild itself makes in the same image. With `--long` in
 * machines as well, where each takes 3 to 20 minutes emulated: `--match '*in a machine*'` has these alone.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { ensureDebianRpms } from '../../../fixtures/debian-rpms/ensure.ts';
import { ensureSources } from '../../../fixtures/sources/ensure.ts';
import { specSources } from '../../../fixtures/sources/wanted.ts';
import { debianRepository, type ImageState, imageState } from '../../image/image-state.ts';
import { KILN_MOCK } from '../../mock/mock-state.ts';
import { PATIENCE } from '../../support/busybox-state.ts';
import { isLong, long } from '../../support/long.ts';

const specs = join(import.meta.dirname, '../../../fixtures/sources/specs');

/** Of each spec, and how many packages it makes, the source package included. */
const PACKAGES: Readonly<Record<string, number>> = {
  hello: 3,
  zlib: 4,
  lua: 4,
  jq: 4,
  fmt: 4,
  'perl-Try-Tiny': 2,
  'python-multidict': 3,
  'nodejs-argparse': 2,
};

/** With these macros, a package has nothing that depends on the time when it was built. */
const RECIPE = `
groups: [buildsys-build]
users:
  - { name: mockbuild, uid: 1000, home: /builddir, shell: /bin/bash }
user: mockbuild
environment: { PATH: /usr/bin:/usr/sbin }
files:
  - path: /etc/rpm/macros.test
    content: |
      %_buildshell /bin/bash
      %source_date_epoch_from_changelog 1
      %use_source_date_epoch_as_buildtime 1
      %build_mtime_policy clamp_to_source_date_epoch
`;

let images: ImageState;
let recipe: string;
let sources: string;

test.before(async (t) => {
  t.timeout(600_000 * PATIENCE);
  sources = await ensureSources(specSources);
  images = await imageState({ unpacked: 'all' });
  const repositories = [await debianRepository()];
  if (isLong) {
    const { directory, keyPath } = await ensureDebianRpms('extras');
    repositories.push({ id: 'extras', directory, key: keyPath });
  }
  recipe = await images.recipe('root', RECIPE, repositories);
});

test.after.always(() => images?.[Symbol.asyncDispose]());

/** Runs `kiln build`; results are in `out`. */
async function kilnBuild(t: ExecutionContext, out: string, ...args: readonly string[]) {
  const run = await images.kiln(['build', '-r', recipe, '--resultdir', out, ...args], {
    timeout: 3_600_000,
  });
  t.is(run.exitCode, 0, String(run.stderr).slice(-3000));
}

/** SHA-256 of each package in a folder, by its name. */
async function digests(directory: string): Promise<Record<string, string>> {
  const names = (await readdir(directory)).filter((name) => name.endsWith('.rpm')).sort();
  const pairs = names.map(async (name) => {
    const bytes = await readFile(join(directory, name));
    return [name, createHash('sha256').update(bytes).digest('hex')] as const;
  });
  return Object.fromEntries(await Promise.all(pairs));
}

/** Everything in the headers, and the digest of each file: says what differs. */
async function described(directory: string, names: readonly string[]): Promise<string> {
  const paths = names.map((name) => join(directory, name));
  return (await execa('rpm', ['-qp', '--nosignature', '--xml', ...paths])).stdout;
}

async function sameBytes(t: ExecutionContext, directory: string, reference: string) {
  const expected = await digests(reference);
  const actual = await digests(directory);
  t.deepEqual(Object.keys(actual), Object.keys(expected));
  const other = Object.keys(expected).filter((name) => actual[name] !== expected[name]);
  if (other.length === 0) return;
  t.is(await described(directory, other), await described(reference, other));
  t.fail(`other bytes: ${other.join(', ')}`);
}

/**
 * Has the image's own rpmbuild build a source package as mock does, without kiln: in a chroot on the image's tree,
 * with an overlay on top of it, as an ordinary user.
 */
async function rpmbuild(image: string, sourcePackage: string, out: string): Promise<void> {
  const { tree } = await images.open(image);
  const root = join(out, '.root');
  for (const name of ['upper', 'work', 'mounted'])
    await mkdir(join(root, name), { recursive: true });
  const inside = `
    set -e
    cd /builddir/build
    rpm -i --nodeps originals/*.rpm
    if grep -q '^%generate_buildrequires' SPECS/*.spec; then exec rpmbuild -ba SPECS/*.spec; fi
    rpmbuild -bs SPECS/*.spec
    exec rpmbuild -bb SPECS/*.spec`;
  const outside = `
    set -e
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/mounted"
    cd "$2/mounted"
    mount -t proc proc proc
    mount --rbind /dev dev
    hostname kiln
    mkdir -p builddir/build/originals
    cp "$3" builddir/build/originals
    printf '%%%s\\n' '_topdir /builddir/build' '_buildhost kiln' > builddir/.rpmmacros
    chown -R 1000:1000 builddir
    env -i HOME=/builddir PATH=/usr/bin:/usr/sbin chroot --userspec=1000:1000 . /bin/sh -c "$4"
    cp builddir/build/SRPMS/*.rpm builddir/build/RPMS/*/*.rpm "$5"
    rm -rf "$2/mounted/builddir"`;
  const namespaces = ['--mount', '--pid', '--fork', '--uts', '--ipc', '--net'];
  const argv = ['sh', '-c', outside, 'sh', tree, root, sourcePackage, inside, out];
  await execa('unshare', [...namespaces, ...argv], { all: true, stdin: 'ignore' });
}

/** What rpmbuild made, by the name, version and release of the source package. */
const references = new Map<string, string>();

/** The package built from its spec, from its source package, and by rpmbuild: all the same. */
async function builtAlike(t: ExecutionContext, name: string): Promise<void> {
  const fresh = async (suffix: string) => {
    const path = join(images.directory, `${name}-${suffix}`);
    await mkdir(path);
    return path;
  };
  const [bySpec, bySource, reference] = [
    await fresh('spec'),
    await fresh('source'),
    await fresh('rpmbuild'),
  ];
  await kilnBuild(t, bySpec, '--spec', join(specs, `${name}.spec`), '--sources', sources);
  const source = (await readdir(bySpec)).find((file) => file.endsWith('.src.rpm')) ?? '';
  await kilnBuild(t, bySource, join(bySpec, source));
  const { image } = JSON.parse(await readFile(join(bySource, 'result.json'), 'utf8'));
  await rpmbuild(image.id, join(bySpec, source), reference);
  t.is(Object.keys(await digests(reference)).length, PACKAGES[name] ?? 0);
  await sameBytes(t, bySpec, reference);
  await sameBytes(t, bySource, reference);
  references.set(source.replace('.src.rpm', ''), reference);
}

test.serial('a Perl module builds as with rpmbuild', async (t) => {
  t.timeout(300_000 * PATIENCE);
  await builtAlike(t, 'perl-Try-Tiny');
});

long('eight packages build as with rpmbuild, alone and in a chain', async (t) => {
  t.timeout(1_800_000 * PATIENCE);
  t.deepEqual(
    (await readdir(specs)).sort(),
    Object.keys(PACKAGES)
      .map((name) => `${name}.spec`)
      .sort(),
  );
  for (const name of Object.keys(PACKAGES)) {
    if (name !== 'perl-Try-Tiny') await builtAlike(t, name);
  }
  t.is(references.size, 8);
  const out = join(images.directory, 'chain');
  const members = [...references].map(([name, reference]) => join(reference, `${name}.src.rpm`));
  await kilnBuild(t, out, '--chain', ...members);
  for (const [member, reference] of references) await sameBytes(t, join(out, member), reference);
});

for (const name of Object.keys(PACKAGES)) {
  long(`${name}, built in a machine, has the bytes of the container's build`, async (t) => {
    t.timeout(3_600_000 * PATIENCE);
    const [container, machine] = ['container', 'vm'].map((kind) =>
      join(images.directory, `${name}-by-${kind}`),
    ) as [string, string];
    const source = ['--spec', join(specs, `${name}.spec`), '--sources', sources];
    await kilnBuild(t, container, ...source);
    await kilnBuild(t, machine, '--isolation', 'vm', '--allow-missing', 'kvm', ...source);
    t.is(Object.keys(await digests(machine)).length, PACKAGES[name] ?? 0);
    await sameBytes(t, machine, container);
    const { policy } = JSON.parse(await readFile(join(machine, 'result.json'), 'utf8'));
    t.is(policy.isolation, 'vm');
  });
}

long('kiln-mock builds in a machine what it builds in a container', async (t) => {
  t.timeout(3_600_000 * PATIENCE);
  const first = join(images.directory, 'mock-spec');
  const spec = ['--spec', join(specs, 'perl-Try-Tiny.spec'), '--sources', sources];
  await kilnBuild(t, first, ...spec);
  const srpm = (await readdir(first)).find((file) => file.endsWith('.src.rpm')) ?? '';
  const [container, machine] = [join(first, 'container'), join(first, 'vm')];
  for (const [out, ...how] of [[container], [machine, '--isolation=vm']] as const) {
    const words = ['-r', recipe, '--resultdir', out, ...how, join(first, srpm)];
    const env = { ...images.env, KILN_ALLOW_MISSING: 'kvm' };
    const { exitCode, stderr } = await execa(KILN_MOCK, words, { env, reject: false });
    t.is(exitCode, 0, stderr.slice(-3000));
    t.is(stderr.includes('--isolation changes nothing'), false);
  }
  await sameBytes(t, machine, container);
  const { policy } = JSON.parse(await readFile(join(machine, 'result.json'), 'utf8'));
  t.is(policy.isolation, 'vm');
});
