/** Modules: dnf decides which streams are active, kiln the same. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import { writeRepository } from '../../scripts/solver/metadata.ts';
import type { WorldPackage, WorldRepository, WorldStream } from '../../scripts/solver/world.ts';
import type { KilnError } from '../../src/errors.ts';
import { askedDigest, imageLock, readImageLock } from '../../src/image/lock.ts';
import { settingsOf } from '../../src/image/read-recipe.ts';
import { ModulesParser } from '../../src/packages/repository/metadata/modules-task.ts';
import { openRepositories } from '../../src/packages/repository/open.ts';
import { solve } from '../../src/packages/solver/solve.ts';
import type { SolveRequest } from '../../src/packages/solver/solve-request.ts';
import { loadImageRecipe } from '../../src/recipe/load-image-recipe.ts';
import { lockOf, nevras, repository } from '../repository/open.ts';
import { askDnf, type DnfQuestion, type DnfRepository } from './dnf.ts';

interface Context {
  readonly directory: string;
  readonly cache: string;
  readonly dnf: ReadonlyMap<string, string[] | null>;
}
const test = anyTest as TestFn<Context>;

const NOTHING = {
  ...{ epoch: 0, release: '1', arch: 'x86_64', requires: [], recommends: [], suggests: [] },
  ...{ supplements: [], provides: [], conflicts: [], obsoletes: [], files: [] },
};
const one = (name: string, version: string, more: Partial<WorldPackage> = {}): WorldPackage => ({
  ...NOTHING,
  name,
  version,
  ...more,
});
const stream = (
  name: string,
  text: string,
  artifacts: readonly string[],
  more: Partial<WorldStream> = {},
): WorldStream => ({
  ...{ name, stream: text, version: 1, context: 'c0ffee', staticContext: false },
  requires: { platform: ['el9'] },
  artifacts,
  ...more,
});
const plain = {
  ...{ groups: [], streams: [], defaults: {}, priority: 99, cost: 1000 },
  ...{ excludepkgs: [], includepkgs: [], moduleHotfixes: false },
};

/** As EL 8 has it: the newest nodejs is of a stream that nobody enabled. */
const APPSTREAM: WorldRepository = {
  ...plain,
  packages: [
    one('nodejs', '16', { epoch: 1 }),
    one('nodejs', '18', { epoch: 1 }),
    one('nodejs', '22', { epoch: 1 }),
    one('npm', '8'),
    one('npm', '10', { provides: ['nodejs = 99'] }),
    one('perl', '5.26'),
    one('perl', '5.32'),
    one('perl-DBI', '1', { requires: ['perl'] }),
    one('perl-DBI', '2', { requires: ['perl'] }),
    one('postgresql', '10'),
    one('postgresql', '15'),
    one('old-context', '1'),
    one('old-context', '2'),
    one('foreign', '1'),
    one('app', '1', { requires: ['nodejs'] }),
  ],
  streams: [
    stream('nodejs', '16', ['nodejs-1:16-1.x86_64', 'npm-0:8-1.x86_64'], {
      profiles: { common: ['nodejs', 'npm'], minimal: ['nodejs'] },
    }),
    stream('nodejs', '18', ['nodejs-1:18-1.x86_64'], {
      profiles: { common: ['nodejs'], more: ['nodejs', 'app'], most: ['perl-DBI'] },
    }),
    stream('nodejs', '22', ['nodejs-1:22-1.x86_64', 'npm-0:10-1.x86_64'], {
      profiles: { common: ['nodejs', 'npm'] },
    }),
    stream('perl', '5.26', ['perl-0:5.26-1.x86_64']),
    stream('perl', '5.32', ['perl-0:5.32-1.x86_64']),
    stream('perl-DBI', '1', ['perl-DBI-0:1-1.x86_64'], {
      requires: { platform: ['el9'], perl: ['5.26'] },
    }),
    stream('perl-DBI', '1', ['perl-DBI-0:2-1.x86_64'], {
      requires: { platform: ['el9'], perl: ['5.32'] },
      context: 'other',
    }),
    stream('postgresql', '10', ['postgresql-0:10-1.x86_64']),
    stream('postgresql', '15', ['postgresql-0:15-1.x86_64']),
    stream('old', '1', ['old-context-0:1-1.x86_64'], { profiles: { common: ['old-context'] } }),
    stream('old', '1', ['old-context-0:2-1.x86_64'], {
      version: 2,
      context: 'new',
      profiles: { common: ['old-context'] },
    }),
    stream('foreign', '1', ['foreign-0:1-1.x86_64'], { requires: { platform: ['f38'] } }),
  ],
  defaults: {
    nodejs: '16',
    perl: '5.26',
    'perl-DBI': '1',
    postgresql: '10',
    old: '1',
    foreign: '1',
  },
  defaultProfiles: {
    nodejs: { 16: ['common'], 18: ['common'] },
    old: { 1: ['common'] },
  },
};

/** What is newer than the modules' packages, and no module's. */
const EXTRA: WorldRepository = {
  ...plain,
  packages: [one('nodejs', '99', { epoch: 1 }), one('postgresql', '17')],
};
/** Two that have other defaults; the first is named first and asked last. */
const byDefault = (nodejs: string): WorldRepository => ({
  ...plain,
  ...{ packages: [], streams: [stream('unused', '1', [])], defaults: { nodejs } },
});
const [DEAR, CHEAP] = [byDefault('18'), byDefault('22')];
const COSTS: Readonly<Record<string, number>> = { dear: 2000, cheap: 500 };

const RELEASE: WorldRepository = {
  ...plain,
  packages: [one('release', '9', { provides: ['system-release', 'base-module(platform:el9)'] })],
};

type Case = Omit<DnfQuestion, 'directories'> & { readonly with?: readonly string[] };
const CASES: Record<string, Case> = {
  'the default stream, not the newest package': { install: ['app'], platform: 'el9' },
  'a stream that is enabled': { install: ['nodejs'], enable: ['nodejs:18'], platform: 'el9' },
  'packages of other streams are hidden, by what they provide as well': {
    install: ['nodejs', 'npm'],
    enable: ['nodejs:18'],
    platform: 'el9',
  },
  'no stream of a module': { install: ['nodejs'], disable: ['nodejs'], platform: 'el9' },
  'a module that brings another, in the right context': {
    install: ['perl-DBI'],
    enable: ['perl:5.32'],
    platform: 'el9',
  },
  'the default of both': { install: ['perl-DBI'], platform: 'el9' },
  'every context and version of a stream with the same requirements': {
    install: ['old-context'],
    platform: 'el9',
  },
  'a stream of another platform': { install: ['foreign'], platform: 'el9' },
  'no platform': { install: ['nodejs'] },
  'the platform as the release has it': { install: ['nodejs'], with: ['release'] },
  'a repository without modules cannot replace a module': {
    install: ['nodejs', 'postgresql'],
    platform: 'el9',
    with: ['extra'],
  },
  'hotfixes can replace a module': {
    install: ['nodejs', 'postgresql'],
    platform: 'el9',
    with: ['hotfixes'],
  },
  'of three defaults the last one, by priority and cost': {
    install: ['nodejs'],
    platform: 'el9',
    with: ['dear', 'cheap'],
  },
  'a profile of the default stream': { install: [], profiles: ['nodejs'], platform: 'el9' },
  'a profile of the stream that is enabled': {
    install: [],
    enable: ['nodejs:18'],
    profiles: ['nodejs'],
    platform: 'el9',
  },
  'a named profile of the stream that is enabled': {
    install: [],
    enable: ['nodejs:18'],
    profiles: ['nodejs/more'],
    platform: 'el9',
  },
  'another stream than the enabled one': {
    install: [],
    enable: ['nodejs:18'],
    profiles: ['nodejs:16/common'],
    platform: 'el9',
  },
  'a profile that the enabled stream lacks': {
    install: [],
    enable: ['nodejs:18'],
    profiles: ['nodejs/minimal'],
    platform: 'el9',
  },
  'profiles by a glob': { install: [], profiles: ['nodejs:18/mo*'], platform: 'el9' },
  'a stream by a glob': { install: [], profiles: ['nodejs:2?/common'], platform: 'el9' },
  'a glob of streams, of which one is the default': {
    install: ['nodejs'],
    enable: ['nodejs:1*'],
    platform: 'el9',
  },
  'a glob of streams, of which none is the default': {
    install: ['nodejs'],
    enable: ['nodejs:[12][28]'],
    platform: 'el9',
  },
  'a glob of modules': { install: [], profiles: ['?l*/common'], platform: 'el9' },
  'a module by a glob and its profile': {
    install: [],
    profiles: ['node*/minimal'],
    platform: 'el9',
  },
  'an older version': { install: [], profiles: ['old:1:1/common'], platform: 'el9' },
  'a version and a context': { install: [], profiles: ['old:1:2:new'], platform: 'el9' },
  'a version with another context': { install: [], profiles: ['old:1:2:c0ffee'], platform: 'el9' },
  'a version that does not exist': { install: [], profiles: ['old:1:3'], platform: 'el9' },
  'a context that is not active': {
    install: [],
    enable: ['perl:5.32'],
    profiles: ['perl-DBI:1:1:c0ffee'],
    platform: 'el9',
  },
  'an architecture': { install: [], profiles: ['old:1::x86_64/common'], platform: 'el9' },
  'another architecture': { install: [], profiles: ['old:1::s390x/common'], platform: 'el9' },
  'a context and a version of what is enabled': {
    install: ['old-context'],
    enable: ['old:1:1:c0ffee'],
    platform: 'el9',
  },
  'an invalid module spec': { install: [], profiles: ['old:1:x:y:z'], platform: 'el9' },
  'streams that are disabled by a glob': {
    install: ['nodejs'],
    disable: ['node*'],
    platform: 'el9',
  },
  'a missing stream is disabled': {
    install: ['nodejs'],
    disable: ['nodejs:9'],
    platform: 'el9',
  },
  'a stream that does not exist': { install: ['nodejs'], enable: ['nodejs:1'], platform: 'el9' },
  'a module that does not exist': { install: ['nodejs'], enable: ['node'], platform: 'el9' },
};

const WORLDS = { app: APPSTREAM, extra: EXTRA, dear: DEAR, cheap: CHEAP, release: RELEASE };

test.before(async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-modules-'));
  const cache = join(directory, 'cache');
  for (const [name, world] of Object.entries(WORLDS)) {
    await writeRepository(join(directory, name), world);
  }
  const questions = Object.values(CASES).map(({ with: more, ...question }) => ({
    ...question,
    directories: repositoriesOf(directory, more),
  }));
  const answers = await askDnf(questions);
  const dnf = new Map(Object.keys(CASES).map((title, index) => [title, answers[index] ?? null]));
  Object.assign(t.context, { directory, cache, dnf });
});

test.after.always((t) => rm(t.context.directory, { recursive: true, force: true }));

function repositoriesOf(directory: string, more: readonly string[] = []): DnfRepository[] {
  return [
    { directory: join(directory, 'app') },
    ...more.map((name) =>
      name === 'hotfixes'
        ? { directory: join(directory, 'extra'), module_hotfixes: true }
        : { directory: join(directory, name), cost: COSTS[name] ?? 1000 },
    ),
  ];
}

async function ask(
  { directory, cache }: Context,
  { install, enable = [], disable = [], profiles = [], platform, with: more }: Case,
  modules: SolveRequest['modules'] = {},
) {
  const repositories = repositoriesOf(directory, more).map((options, index) =>
    repository({ id: `r${index}`, ...options, excludepkgs: undefined, includepkgs: undefined }),
  );
  const set = await openRepositories(repositories, { paths: { cache } });
  const wanted = {
    ...{ enable: [...enable], disable: [...disable], install: [...profiles] },
    platform,
    ...modules,
  };
  return await solve(set, { arch: 'x86_64', install, modules: wanted });
}

for (const [title, question] of Object.entries(CASES)) {
  test.serial(`dnf chooses the same: ${title}`, async (t) => {
    const { dnf } = t.context;
    const kiln = await ask(t.context, question).catch((error: KilnError) => {
      t.regex(error.code, /^E_SOLVER_(NO_MATCH|PROBLEM|MODULE)$/, error.message);
      return undefined;
    });
    t.deepEqual(kiln === undefined ? null : nevras(kiln.lock), dnf.get(title));
  });
}

test.serial('the cases have different answers for different streams', (t) => {
  const { dnf } = t.context;
  t.deepEqual(dnf.get('the default stream, not the newest package'), [
    'app-1-1.x86_64',
    'nodejs-1:16-1.x86_64',
  ]);
  t.deepEqual(dnf.get('a stream that is enabled'), ['nodejs-1:18-1.x86_64']);
  t.deepEqual(dnf.get('hotfixes can replace a module'), [
    'nodejs-1:99-1.x86_64',
    'postgresql-17-1.x86_64',
  ]);
  t.is(dnf.get('a stream of another platform'), null);
  t.deepEqual(dnf.get('a profile of the stream that is enabled'), ['nodejs-1:18-1.x86_64']);
  t.deepEqual(dnf.get('an older version'), ['old-context-1-1.x86_64']);
  t.deepEqual(dnf.get('of three defaults the last one, by priority and cost'), [
    'nodejs-1:18-1.x86_64',
  ]);
});

test.serial('a package hidden by a module is reported, with the stream', async (t) => {
  const error = await t.throwsAsync<KilnError>(
    ask(t.context, { install: ['nodejs-22'], platform: 'el9' }, {}),
  );
  t.is(error?.code, 'E_SOLVER_NO_MATCH');
  t.regex(error?.message ?? '', /nodejs-1:22-1\.x86_64, by the module nodejs:22/);
});

test.serial('streams that exclude one another, and unknown ones, are refused', async (t) => {
  const asked = { install: ['app'], platform: 'el9' };
  const two = await t.throwsAsync<KilnError>(
    ask(t.context, { ...asked, enable: ['nodejs:16', 'nodejs:18'] }),
  );
  t.is(two?.code, 'E_SOLVER_MODULE');
  t.regex(two?.message ?? '', /16 and 18 of the module nodejs cannot both be enabled/);
  const unknown = await t.throwsAsync<KilnError>(ask(t.context, { ...asked, enable: ['nodej'] }));
  t.regex(unknown?.hint ?? '', /nodejs/);
  const noStream = await t.throwsAsync<KilnError>(
    ask(t.context, { ...asked, enable: ['nodejs:9'] }),
  );
  t.regex(noStream?.hint ?? '', /16, 18, 22/);
  const foreign = await t.throwsAsync<KilnError>(ask(t.context, { ...asked, enable: ['foreign'] }));
  t.regex(foreign?.message ?? '', /platform:f38/);
});

const YAML = `
---
document: modulemd
version: 2
data:
  name: tool
  stream: 1.10
  version: 20240101000000
  context: abc
  arch: x86_64
  summary: A tool
  description: >-
    It has
    uses.
  license:
    module: [MIT]
  dependencies:
  - requires:
      platform: [el9]
  profiles:
    default:
      rpms:
      - tool
    all:
      rpms: [tool, tool-extra]
  artifacts:
    rpms:
    - tool-0:1-1.noarch
    - tool-extra-0:1-1.noarch
...
---
document: modulemd
version: 2
data: { name: tool, stream: 2.0, version: 1, context: abc, arch: x86_64, summary: x, description: x, license: { module: [MIT] }, dependencies: [ { requires: { platform: [el9] } } ], artifacts: { rpms: [ "tool-0:2-1.noarch" ] } }
---
document: modulemd-defaults
version: 1
data:
  module: tool
  stream: 1.10
  profiles:
    1.10: [default]
---
document: modulemd-obsoletes
version: 1
data:
  module: tool
  stream: 1.10
  modified: 2021-01-01T00:00Z
  message: use a newer one
  obsoleted_by: { module: tool, stream: 2.0 }
`;

const BROKEN = `---
this: [is broken
---
document: modulemd
version: 2
data: { name: "bad name)", stream: 1 }
`;

async function yamlRepository({ directory }: Context, name: string, yaml: string): Promise<string> {
  const folder = join(directory, name);
  await writeRepository(folder, {
    ...plain,
    packages: ['1', '2'].flatMap((version) => [
      one('tool', version, { arch: 'noarch' }),
      ...(version === '1' ? [one('tool-extra', version, { arch: 'noarch' })] : []),
    ]),
  });
  const file = join(folder, 'modules.yaml');
  await writeFile(file, yaml);
  const options = ['--mdtype', 'modules', '--compress', '--compress-type=gz'];
  await execa('modifyrepo_c', [...options, file, join(folder, 'repodata')]);
  return folder;
}

test.serial(
  'YAML is read as distributions write it, and broken parts are skipped with a warning',
  async (t) => {
    const folder = await yamlRepository(t.context, 'yaml', YAML + BROKEN);
    const set = await openRepositories([repository({ id: 'yaml', directory: folder })], {
      paths: { cache: t.context.cache },
    });
    const modules = { platform: 'el9' };
    const request = { arch: 'x86_64', install: ['tool'] };
    const { lock, warnings } = await solve(set, { ...request, modules });
    t.deepEqual(nevras(lock), ['tool-1-1.noarch']);
    t.is(warnings.length, 2);
    t.regex(warnings[0] ?? '', /repository yaml: modules\.yaml, document 5: .*: it is left out/);
    t.regex(warnings[1] ?? '', /document 6: name: no blank, colon or bracket/);
    const whole = await yamlRepository(t.context, 'whole', YAML);
    const [dnf] = await askDnf([{ directories: [whole], install: ['tool'], platform: 'el9' }]);
    t.deepEqual(nevras(lock), dnf);

    const enabled = { ...modules, enable: ['tool:1.10'] };
    const told = await solve(set, { ...request, modules: enabled });
    t.deepEqual(nevras(told.lock), ['tool-1-1.noarch']);
    t.true(told.warnings.includes('the module tool:1.10 is replaced by tool:2.0: use a newer one'));
    const replaced = await solve(set, { ...request, modules: { ...enabled, obsoletes: true } });
    t.deepEqual(nevras(replaced.lock), ['tool-2-1.noarch']);

    for (const [install, expected] of [
      ['tool:1.10', ['tool-1-1.noarch']],
      ['tool:1.10/all', ['tool-1-1.noarch', 'tool-extra-1-1.noarch']],
      ['tool', ['tool-1-1.noarch']],
    ] as const) {
      const wanted = { ...modules, install: [install] };
      const solution = await solve(set, { arch: 'x86_64', install: [], modules: wanted });
      t.deepEqual(nevras(solution.lock), expected, install);
    }
    const error = await t.throwsAsync<KilnError>(
      solve(set, { ...request, modules: { ...modules, install: ['tool:1.10/none'] } }),
    );
    t.regex(error?.hint ?? '', /all, default/);
  },
);

test.serial('a recipe of modules alone is an image of their profiles', async (t) => {
  const { directory } = t.context;
  const load = async (text: string) => {
    const recipe = join(directory, 'alone.yaml');
    await writeFile(recipe, `repositories: [{ id: r, directory: ${directory}/app }]\n${text}`);
    return await loadImageRecipe(recipe, {
      variables: { KILN_STATE: '/x', KILN_FIXTURES: '/x' },
      arch: 'x86_64',
      findByName: () => undefined,
      isTrusted: () => false,
    });
  };
  const alone = await load(
    'modules: { install: ["nodejs:18:1:c0ffee::x86_64/common"], platform: el9 }\n',
  );
  t.deepEqual(alone.packages, []);
  const solved = await ask(t.context, { install: [] }, alone.modules);
  t.deepEqual(nevras(solved.lock), ['nodejs-1:18-1.x86_64']);
  await t.throwsAsync(load('modules: { enable: [nodejs] }\n'), {
    message: /no package, no group and no module is named/,
  });
  await t.throwsAsync(load('modules: { install: ["nodejs:18:1:c:x"] }\n'), {
    message: /NAME:STREAM/,
  });
});

test('a recipe can name modules, and so can the one it extends; image locks record them', async (t) => {
  const { directory } = t.context;
  await writeFile(
    join(directory, 'base.yaml'),
    `repositories: [{ id: r, directory: ${directory} }]
packages: [bash]
modules: { enable: [perl:5.32], platform: el9 }
`,
  );
  const recipe = join(directory, 'top.yaml');
  await writeFile(
    recipe,
    'extends: ./base.yaml\nmodules: { enable: [nodejs], disable: [postgresql], install: [php/devel] }\n',
  );
  const load = () =>
    loadImageRecipe(recipe, {
      variables: { KILN_STATE: '/x', KILN_FIXTURES: '/x' },
      arch: 'x86_64',
      findByName: () => undefined,
      isTrusted: () => false,
    });
  const loaded = await load();
  const expected = {
    enable: ['perl:5.32', 'nodejs'],
    disable: ['postgresql'],
    install: ['php/devel'],
    obsoletes: false,
    platform: 'el9',
  };
  t.deepEqual(loaded.modules, expected);
  const packages = {
    format: 1 as const,
    arch: 'x86_64',
    requested: [],
    repositories: [],
    packages: [],
  };
  const made = imageLock(await settingsOf(loaded), packages, 'asked', loaded.modules);
  const path = join(directory, 'top.lock.json');
  await writeFile(path, JSON.stringify(made));
  t.deepEqual((await readImageLock(path)).modules, expected);
  const asked = askedDigest(loaded);
  await writeFile(recipe, 'extends: ./base.yaml\n');
  t.not(askedDigest(await load()), asked);
  await writeFile(recipe, 'extends: ./base.yaml\nmodules: { enable: ["a b"] }\n');
  await t.throwsAsync(load, { message: /NAME:STREAM/ });
});

test('hostile modules.yaml is bounded, may have no aliases, and gives no numbers', (t) => {
  const parse = (...chunks: string[]) => {
    const parser = new ModulesParser();
    for (const chunk of chunks) parser.write(Buffer.from(chunk));
    return parser.end();
  };
  const bomb = `a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\n`;
  t.deepEqual(parse(bomb).streams, []);
  t.is(parse(bomb).skipped.length, 1);
  t.is(parse('['.repeat(100_000)).skipped.length, 1);
  t.throws(() => parse('x'.repeat(9 * 2 ** 20), 'x'.repeat(9 * 2 ** 20)), { message: /16 MiB/ });
  t.throws(() => parse(`${'x: y\n---\n'.repeat(60_000)}`), { message: /too many documents/ });
  t.is(parse('x: [\n---\n'.repeat(1000)).skipped.length, 20);
  const { streams } = parse(YAML.slice(0, 60), YAML.slice(60));
  t.deepEqual(
    streams.map(({ stream: text, version }) => [text, version]),
    [
      ['1.10', '20240101000000'],
      ['2.0', '1'],
    ],
  );
});

test.serial('modules.yaml with another digest is refused', async (t) => {
  const folder = await yamlRepository(t.context, 'changed', YAML);
  const { stdout } = await execa('sh', ['-c', 'echo repodata/*modules.yaml.gz'], { cwd: folder });
  await writeFile(join(folder, stdout), 'document: other');
  await mkdir(t.context.cache, { recursive: true });
  const error = await t.throwsAsync<KilnError>(
    lockOf([repository({ id: 'changed', directory: folder })], t.context.cache, {
      install: ['tool'],
    }),
  );
  t.is(error?.code, 'E_REPOSITORY_METADATA');
  t.regex(error?.message ?? '', /repository changed: .*modules/);
});
