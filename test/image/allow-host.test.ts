/** What an image recipe, or a lock, may name of the host: what lies in its folder, or what its caller confirms. */
import {
  chmodSync,
  cpSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { sourcePackage } from '../build/core/build-state.ts';
import { USER, type UserState, userState } from '../support/second-user.ts';
import { ownRepository } from '../users/own-package.ts';

interface Context extends UserState {
  /** A folder as of a checkout, which somebody else may have written. */
  readonly checkout: string;
  /** What lies around it: a file, a key, a recipe and a repository of root's. */
  readonly roots: string;
}

const test = anyTest as TestFn<Context>;
const MARK = 'nobody-but-root';
const TOP = join(import.meta.dirname, '../..');
const MOCK = join(TOP, 'bin/kiln-mock');
const CAT = ['--', '/bin/busybox', 'cat', '/etc/loot'];

async function repository(folder: string, name: string): Promise<void> {
  const install = `mkdir -p %{buildroot}/bin; cp /bin/busybox %{buildroot}/bin/; for it in sh cat; do ln -s busybox %{buildroot}/bin/$it; done`;
  const parts = { name, preamble: 'AutoReqProv: no', install, files: '/bin/*' };
  await ownRepository(folder, parts, { uid: 0, gid: 0 });
  await execa('chmod', ['-R', 'go+rX', folder]);
}

test.before(async (t) => {
  const state = await userState();
  const checkout = join(state.beside, 'checkout');
  const roots = join(state.beside, 'roots');
  mkdirSync(join(checkout, 'sub'), { recursive: true });
  mkdirSync(roots);
  await repository(join(checkout, 'repo'), 'tiny');
  await repository(join(roots, 'repo'), 'secret');
  writeFileSync(join(roots, 'loot'), MARK);
  writeFileSync(join(roots, 'loot.yaml'), `packages: [${MARK}]\n`);
  writeFileSync(join(checkout, 'beside.txt'), 'beside');
  symlinkSync(join(roots, 'loot'), join(checkout, 'link'));
  symlinkSync(join(roots, 'loot.yaml'), join(checkout, 'link.yaml'));
  symlinkSync('../roots', join(checkout, 'folder'));
  symlinkSync('../beside.txt', join(checkout, 'sub/inside'));
  t.context = { ...state, checkout, roots };
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

const OWN = '{ id: own, directory: repo }';

function recipe(repo = OWN, source = 'beside.txt', more = ''): string {
  return `${more}repositories: [${repo}]
packages: [tiny]
scriptlets: { mode: none }
workdir: /
files: [{ path: /etc/loot, source: '${source}' }]
`;
}

/** A variable of recipes, which begins a path. */
function variable(name: string, rest: string): string {
  return `\${KILN_${name}}${rest}`;
}

/** Recipes of a checkout that name what lies elsewhere. */
function outside(roots: string): readonly (readonly [what: string, text: string])[] {
  const remote = (more: string) =>
    `{ id: own, baseurl: 'http://127.0.0.1:1/', gpgcheck: false, ${more} }`;
  const secure = (more: string) => remote(more).replace('http:', 'https:');
  return [
    ['a file, absolute', recipe(OWN, join(roots, 'loot'))],
    ['a file, above', recipe(OWN, '../roots/loot')],
    ['a file, by way of the folder', recipe(OWN, 'sub/../../roots/loot')],
    ['a file, by a link', recipe(OWN, 'link')],
    ['a file, by a link to its folder', recipe(OWN, 'folder/loot')],
    ['a file of the state', recipe(OWN, variable('STATE', '/kilnd.log'))],
    [
      'a file above the fixtures',
      recipe(OWN, variable('FIXTURES', '/../../../../../../etc/shadow')),
    ],
    ['a repository, absolute', recipe(`{ id: own, directory: ${roots}/repo }`)],
    ['a repository, above', recipe('{ id: own, directory: ../roots/repo }')],
    ['a repository, by a link', recipe('{ id: own, directory: folder/repo }')],
    ['a repository, by URL', recipe(`{ id: own, baseurl: 'file://${roots}/repo' }`)],
    ['a key', recipe(`{ id: own, directory: repo, gpgcheck: true, gpgkey: ${roots}/loot }`)],
    ['a key, by a link', recipe('{ id: own, directory: repo, gpgcheck: true, gpgkey: link }')],
    [
      'a key, by URL',
      recipe(`{ id: own, directory: repo, gpgcheck: true, gpgkey: 'file://${roots}/loot' }`),
    ],
    ['a password', recipe(remote(`username: x, password_file: ${roots}/loot`))],
    ['a token', recipe(remote('token_file: ../roots/loot'))],
    ['a certificate', recipe(secure(`sslclientcert: ${roots}/loot`))],
    ['authorities', recipe(secure('sslcacert: link'))],
    ['a recipe, absolute', `extends: ${roots}/loot.yaml\n`],
    ['a recipe, above', 'extends: ../roots/loot.yaml\n'],
    ['a recipe, by a link', 'extends: ./link.yaml\n'],
  ];
}

async function refused(
  t: ExecutionContext<Context>,
  call: Promise<object> | PromiseLike<object>,
  what: string,
): Promise<void> {
  const { exitCode, stdout, stderr } = (await call) as {
    exitCode?: unknown;
    stdout?: unknown;
    stderr?: unknown;
  };
  t.not(exitCode, 0, what);
  t.regex(String(stderr), /may name what lies in its folder, not .* \[?/, what);
  t.regex(String(stderr), /E_HOST_NOT_ALLOWED|ERROR/, what);
  t.regex(String(stderr), /--allow-host/, what);
  t.notRegex(`${stdout}${stderr}`, new RegExp(MARK), what);
}

test.serial(
  'a recipe can name files of its folder, and no others, root’s as a user’s',
  async (t) => {
    const { kiln, as, checkout, roots, home } = t.context;
    const mine = join(home, 'checkout');
    cpSync(checkout, mine, { recursive: true, verbatimSymlinks: true });
    // What is the user's own, elsewhere.
    const own = join(home, 'roots');
    cpSync(roots, own, { recursive: true });
    rmSync(join(mine, 'link'));
    rmSync(join(mine, 'link.yaml'));
    symlinkSync(join(own, 'loot'), join(mine, 'link'));
    symlinkSync(join(own, 'loot.yaml'), join(mine, 'link.yaml'));
    await execa('chown', ['-Rh', `${USER.uid}:${USER.gid}`, home]);
    for (const [what, text] of outside(roots)) {
      writeFileSync(join(checkout, 'evil.yaml'), text);
      await refused(t, kiln(['image', 'build', './evil.yaml'], { cwd: checkout }), what);
    }
    for (const [what, text] of outside(own)) {
      writeFileSync(join(mine, 'evil.yaml'), text);
      await refused(t, as(USER, ['image', 'build', './evil.yaml'], { cwd: mine }), `user: ${what}`);
    }
    const { stdout } = await execa('grep', ['-rl', MARK, t.context.paths.images], {
      reject: false,
    });
    t.is(stdout, '');
  },
);

test.serial('every command that makes an image of a recipe may need --allow-host', async (t) => {
  const { kiln, checkout, roots, env, beside } = t.context;
  const cwd = checkout;
  writeFileSync(join(cwd, 'evil.yaml'), recipe(OWN, '../roots/loot'));
  const out = join(beside, 'out');
  const made = await sourcePackage(beside, { name: 'source', files: false });
  const srpm = [made, '--resultdir', out];
  for (const [what, words] of [
    ['run', ['run', '-r', './evil.yaml', ...CAT]],
    ['shell', ['shell', '-r', './evil.yaml']],
    ['KILN_IMAGE', ['run', ...CAT]],
    ['build', ['build', '-r', './evil.yaml', ...srpm]],
    ['export', ['image', 'export', './evil.yaml', '-o', join(beside, 'x.tar')]],
    ['lock', ['image', 'lock', './evil.yaml']],
    ['update', ['image', 'build', '--update', './evil.yaml']],
    ['service', ['service', 'create', '-r', './evil.yaml', 'evil', '--', 'true']],
  ] as const) {
    await refused(t, kiln(words, { cwd, env: { ...env, KILN_IMAGE: './evil.yaml' } }), what);
  }
  await kiln(['service', 'create', '-r', 'busybox', 'good', '--', 'true']);
  await refused(t, kiln(['service', 'upgrade', 'good', '--to', './evil.yaml'], { cwd }), 'upgrade');
  const mock = (...words: string[]) =>
    execa(MOCK, ['-r', './evil.yaml', ...words], { cwd, env, reject: false, stdin: 'ignore' });
  await refused(t, mock('--init'), 'mock');
  await refused(t, mock('--rebuild', made), 'mock --rebuild');
  writeFileSync(join(cwd, 'build.yaml'), "image: ./evil.yaml\nsteps: ['cat /etc/loot']\n");
  const steps = ['build', './build.yaml', '--resultdir', out];
  t.regex(String((await kiln(steps, { cwd })).stderr), /E_HOST_NOT_ALLOWED/);
  await refused(t, kiln([...steps, '-r', './evil.yaml'], { cwd }), 'recipe');
  // The same with the word, root's and then each command's.
  for (const words of [
    ['run', '--allow-host', '-r', './evil.yaml', ...CAT],
    ['build', '--allow-host', './build.yaml', '--resultdir', out],
  ]) {
    const { stdout, stderr } = await kiln(words, { cwd });
    t.regex(String(stdout), new RegExp(MARK), String(stderr));
  }
  // What is known to be as it was needs no word again.
  t.is((await kiln(['run', '-r', './evil.yaml', ...CAT], { cwd })).stdout, MARK);
  writeFileSync(join(roots, 'loot'), `${MARK}-2`);
  await refused(t, kiln(['run', '-r', './evil.yaml', ...CAT], { cwd }), 'changed');
  writeFileSync(join(roots, 'loot'), MARK);
  const inited = await mock('--allow-host', '--init');
  t.notRegex(inited.stderr, /may name what lies/);
});

test.serial('the API needs allowHost for other files as well', async (t) => {
  const { kiln, checkout } = t.context;
  writeFileSync(join(checkout, 'evil.yaml'), recipe(OWN, '../roots/loot'));
  const call = async (method: string, parameters: object): Promise<string> => {
    const message = JSON.stringify({ method: `io.kiln.${method}`, parameters });
    const client = kiln(['varlink'], { stdin: 'pipe' });
    client.stdin?.write(`${message}\0`);
    let reply = '';
    for await (const piece of client.stdout ?? []) {
      reply += String(piece);
      // It is gone once its input ends.
      if (reply.includes('\0')) client.stdin?.end();
    }
    await client;
    return reply;
  };
  await kiln(['image', 'rm', join(checkout, 'evil.yaml')]);
  const image = join(checkout, 'evil.yaml');
  for (const [method, parameters] of [
    ['BuildImage', { image, update: true }],
    ['LockImage', { recipe: image }],
    ['Run', { image, argv: CAT.slice(1) }],
  ] as const) {
    t.regex(await call(method, parameters), /E_HOST_NOT_ALLOWED/, method);
  }
  t.regex(await call('BuildImage', { image, allowHost: true }), /"id":"[0-9a-f]{64}"/);
  const ran = await call('Run', { image, argv: CAT.slice(1) });
  t.true(ran.includes(MARK) || ran.includes(Buffer.from(MARK).toString('base64')), ran);
});

test.serial(
  'files of the folder can be used, by links that stay in it, and so can kiln’s own packages',
  async (t) => {
    const { kiln, as, checkout, home } = t.context;
    const made = variable('FIXTURES', '/debian-rpms');
    const fixtures = `{ id: debian, directory: "${made}/build", gpgcheck: true, gpgkey: "${made}/RPM-GPG-KEY-kiln-fixtures" }`;
    writeFileSync(
      join(checkout, 'sub/base.yaml'),
      recipe('{ id: own, directory: ../repo }', 'inside'),
    );
    writeFileSync(
      join(checkout, 'good.yaml'),
      'extends: sub/base.yaml\nenvironment: { GOOD: yes }\n',
    );
    const good = await kiln(['run', '-r', './good.yaml', ...CAT], { cwd: checkout });
    t.is(good.stdout, 'beside', String(good.stderr));
    // As root may call a checkout: through a link.
    symlinkSync(checkout, join(checkout, '../by-link'));
    writeFileSync(join(checkout, 'again.yaml'), recipe());
    const linked = await kiln(['run', '-r', join(checkout, '../by-link/again.yaml'), ...CAT]);
    t.is(linked.stdout, 'beside', String(linked.stderr));
    writeFileSync(join(checkout, 'debian.yaml'), recipe(`${OWN}, ${fixtures}`));
    const debian = await kiln(['image', 'build', './debian.yaml'], { cwd: checkout });
    t.is(debian.exitCode, 0, String(debian.stderr));
    // A repository whose packages are links to others of the folder.
    const repo = join(checkout, 'links');
    mkdirSync(repo);
    for (const name of ['repodata', 'x86_64']) symlinkSync(`../repo/${name}`, join(repo, name));
    writeFileSync(
      join(checkout, 'links.yaml'),
      `description: links\n${recipe('{ id: own, directory: links }')}`,
    );
    const links = await kiln(['image', 'build', './links.yaml'], { cwd: checkout });
    t.is(links.exitCode, 0, String(links.stderr));
    const mine = join(home, 'checkout');
    cpSync(join(checkout, 'sub/base.yaml'), join(mine, 'sub/base.yaml'));
    cpSync(join(checkout, 'good.yaml'), join(mine, 'good.yaml'));
    await execa('chown', ['-Rh', `${USER.uid}:${USER.gid}`, mine]);
    const theirs = await as(USER, ['run', '-r', './good.yaml', ...CAT], { cwd: mine });
    t.is(theirs.stdout, 'beside', String(theirs.stderr));
    writeFileSync(join(mine, 'evil.yaml'), recipe(OWN, '../roots/loot'));
    const allowed = await as(USER, ['run', '--allow-host', '-r', './evil.yaml', ...CAT], {
      cwd: mine,
    });
    t.is(allowed.stdout, MARK, String(allowed.stderr));
  },
);

test.serial('metadata and packages of a recipe’s repository must lie in its folder', async (t) => {
  const { kiln, checkout, roots } = t.context;
  const build = (name: string) => kiln(['image', 'build', `./${name}.yaml`], { cwd: checkout });
  const failed = async (name: string, message: RegExp) => {
    const { exitCode, stderr } = await build(name);
    t.not(exitCode, 0, name);
    t.regex(String(stderr), message, name);
  };
  const write = (name: string, directory: string) =>
    writeFileSync(
      join(checkout, `${name}.yaml`),
      `description: ${name}\nrepositories: [{ id: own, directory: ${directory} }]\npackages: [secret]\nscriptlets: { mode: none }\n`,
    );
  // The package itself, then its folder, then the metadata, by a link.
  cpSync(join(roots, 'repo'), join(checkout, 'linked'), { recursive: true });
  rmSync(join(checkout, 'linked/x86_64'), { recursive: true });
  symlinkSync(join(roots, 'repo/x86_64'), join(checkout, 'linked/x86_64'));
  write('linked', 'linked');
  await failed('linked', /a link leads from \S+linked\/x86_64\S+ out of .*E_HOST_NOT_ALLOWED/);
  mkdirSync(join(checkout, 'metadata'));
  symlinkSync(join(roots, 'repo/repodata'), join(checkout, 'metadata/repodata'));
  write('metadata', 'metadata');
  await failed('metadata', /a link leads from \S+repomd\.xml out of .*E_HOST_NOT_ALLOWED/);
  // Metadata that names a file of the host.
  const named = join(checkout, 'named');
  cpSync(join(roots, 'repo'), named, { recursive: true });
  await execa('createrepo_c', ['--quiet', '--baseurl', `file://${roots}/repo`, named]);
  rmSync(join(named, 'x86_64'), { recursive: true });
  write('named', 'named');
  await failed('named', /cannot name files of this host/);
});

test.serial('a link that is swapped in meanwhile leads nowhere', async (t) => {
  const { kiln, checkout, roots } = t.context;
  // It is read again and again, while somebody swaps the file, and its folder, for links.
  const folder = join(checkout, 'race');
  mkdirSync(folder);
  writeFileSync(join(folder, 'text'), 'fine');
  writeFileSync(join(checkout, 'race.yaml'), recipe(OWN, 'race/text'));
  let over = false;
  const swapping = (async () => {
    for (let turn = 0; !over; turn++) {
      const real = join(checkout, 'race-real');
      renameSync(folder, real);
      symlinkSync(join(roots, 'raced'), folder);
      await new Promise((later) => setTimeout(later, turn % 3));
      rmSync(folder);
      renameSync(real, folder);
      await new Promise((later) => setTimeout(later, turn % 2));
    }
  })();
  mkdirSync(join(roots, 'raced'));
  writeFileSync(join(roots, 'raced/text'), MARK);
  for (let turn = 0; turn < 15; turn++) {
    await kiln(['image', 'build', '--update', './race.yaml'], { cwd: checkout });
  }
  over = true;
  await swapping;
  const { stdout } = await execa('grep', ['-rl', MARK, t.context.paths.images], { reject: false });
  const made = stdout.split('\n').filter((path) => !path.includes('/etc/loot'));
  t.deepEqual(made.filter(Boolean), []);
  const { stdout: ids } = await kiln(['image', 'ls', '--json']);
  for (const { id } of JSON.parse(String(ids)).filter(
    ({ name }: { name: string }) => name === 'race',
  )) {
    const tree = join(t.context.paths.images, id, 'tree/etc/loot');
    t.is(readFileSync(tree, 'utf8'), 'fine');
  }
});

test.serial('a lock can name no more files than a recipe in its place', async (t) => {
  const { kiln, checkout, roots } = t.context;
  writeFileSync(join(checkout, 'good.yaml'), `description: locked\n${recipe()}`);
  const { stdout: file } = await kiln(['image', 'lock', './good.yaml'], { cwd: checkout });
  const good = readFileSync(String(file), 'utf8');
  rmSync(String(file));
  const evil = join(checkout, 'evil.lock.json');
  const changed = (
    change: (lock: { packages: Record<string, Record<string, unknown>[]> }) => void,
  ) => {
    const lock = JSON.parse(good);
    change(lock);
    return JSON.stringify(lock);
  };
  const forged: readonly (readonly [string, string])[] = [
    [
      'directory',
      changed((lock) =>
        Object.assign(lock.packages.repositories?.[0] ?? {}, {
          source: { kind: 'directory', path: `${roots}/repo` },
        }),
      ),
    ],
    [
      'key',
      changed((lock) =>
        Object.assign(lock.packages.repositories?.[0] ?? {}, { gpgkey: [`${roots}/loot`] }),
      ),
    ],
    [
      'boundary',
      changed((lock) =>
        Object.assign(lock.packages.repositories?.[0] ?? {}, {
          below: '/',
          gpgkey: ['/etc/shadow'],
        }),
      ),
    ],
    [
      'location',
      changed((lock) =>
        Object.assign(lock.packages.packages?.[0] ?? {}, {
          location: `file://${roots}/repo/x.rpm`,
        }),
      ),
    ],
  ];
  for (const [what, text] of forged) {
    writeFileSync(evil, text);
    await refused(t, kiln(['run', '-r', evil, '--', '/bin/busybox', 'true']), what);
  }
  // Beside a recipe, of which repositories and keys are taken.
  for (const [what, text] of forged.slice(3)) {
    writeFileSync(join(checkout, 'good.lock.json'), text);
    await refused(t, kiln(['image', 'build', './good.yaml'], { cwd: checkout }), `beside: ${what}`);
  }
  rmSync(join(checkout, 'good.lock.json'));
  symlinkSync(join(roots, 'loot'), join(checkout, 'good.lock.json'));
  const linked = await kiln(['image', 'build', './good.yaml'], { cwd: checkout });
  t.not(linked.exitCode, 0);
  t.notRegex(String(linked.stderr), new RegExp(MARK));
  rmSync(join(checkout, 'good.lock.json'));
  const own = join(checkout, 'fine.lock.json');
  writeFileSync(own, good);
  t.is((await kiln(['run', '-r', own, ...CAT])).stdout, 'beside');
  // Elsewhere it names the checkout, and so needs the word.
  const elsewhere = join(roots, 'elsewhere.lock.json');
  writeFileSync(elsewhere, `${good} `);
  await refused(t, kiln(['run', '-r', elsewhere, ...CAT]), 'elsewhere');
  t.is((await kiln(['run', '--allow-host', '-r', elsewhere, ...CAT])).stdout, 'beside');
  chmodSync(elsewhere, 0o644);
});

test.serial('a recipe in /etc/kiln may name any file, even if a checkout extends it', async (t) => {
  const { kiln, as, beside, checkout, roots, home } = t.context;
  const recipes = join(beside, 'recipes');
  mkdirSync(recipes);
  writeFileSync(
    join(recipes, 'site.yaml'),
    recipe(`{ id: site, directory: ${checkout}/repo }`, `${roots}/loot`),
  );
  t.is((await kiln(['run', '-r', 'site', ...CAT])).stdout, MARK);
  t.is((await as(USER, ['run', '-r', 'site', ...CAT])).stdout, MARK);
  const child = 'extends: site\nenvironment: { CHILD: yes }\n';
  writeFileSync(join(checkout, 'child.yaml'), child);
  t.is((await kiln(['run', '-r', './child.yaml', ...CAT], { cwd: checkout })).stdout, MARK);
  // By its path as well; not where others could have written it.
  t.is((await kiln(['run', '-r', join(recipes, 'site.yaml'), ...CAT])).stdout, MARK);
  chmodSync(recipes, 0o777);
  writeFileSync(join(recipes, 'site.yaml'), `description: new\n${recipe(OWN, `${roots}/loot`)}`);
  await refused(t, kiln(['run', '-r', join(recipes, 'site.yaml'), ...CAT]), 'loose');
  rmSync(recipes, { recursive: true });
  rmSync(join(home, 'checkout'), { recursive: true });
});
