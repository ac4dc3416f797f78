/** The command that does a job again asks for what the first one asked for. */

import { resolve } from 'node:path';
import test from 'ava';
import { NO_PATHS } from '../../src/cli/caller/no-paths.ts';
import { KilnCommand } from '../../src/cli/options/command.ts';
import { runRequest } from '../../src/cli/options/sandbox-options.ts';
import { chainRequest } from '../../src/cli/rpmbuild/build-chain.ts';
import { recipeRequest } from '../../src/cli/rpmbuild/build-recipe.ts';
import { buildRequest } from '../../src/cli/rpmbuild/build-request.ts';
import { type HeldPath, ownPath } from '../../src/host/files/held.ts';
import { chainJson } from '../../src/jobs/chain/request.ts';
import { askedFor, resultOfFailedRecipe } from '../../src/jobs/recipe/request.ts';
import { Timeline } from '../../src/jobs/run/timeline.ts';
import {
  BUILD,
  type BuildOptions,
  CHAIN,
  type ChainOptions,
  RECIPE,
  type RecipeOptions,
} from '../../src/options/build.ts';
import { flagOf, toldWords } from '../../src/options/row.ts';
import { SANDBOX, type SandboxOptions } from '../../src/options/sandbox.ts';
import { replayChain, replayCommand } from '../../src/report/replay.ts';
import type { Result } from '../../src/result/schema.ts';
import { shellWords } from '../../src/shell-words.ts';

const variable = (name: string) => `${name}’s value`;
const caller = {
  ...{ env: {}, environment: {}, cwd: () => '/', ids: { uid: 0, gid: 0 }, variable },
  ...{ user: undefined, paths: NO_PATHS },
};

/** As it is opened. */
function results(folder: string): { readonly resultDirectory: HeldPath };
function results(folder?: string): { readonly resultDirectory?: HeldPath };
function results(folder?: string): { readonly resultDirectory?: HeldPath } {
  return folder === undefined ? {} : { resultDirectory: ownPath(resolve(folder)) };
}

function runRequestOf(words: readonly string[]) {
  const command = new KilnCommand('run').argument('[argv...]').rows(SANDBOX, caller);
  command.passThroughOptions().parse([...words], { from: 'user' });
  const options = command.opts<SandboxOptions>();
  const request = runRequest(options, command.args, command, caller.ids);
  return { ...request, ...results(options.resultDirectory) };
}

function buildRequestOf(words: readonly string[]) {
  const command = new KilnCommand('build').argument('[source]').rows(BUILD, caller);
  command.parse([...words], { from: 'user' });
  const options = command.opts<BuildOptions>();
  const request = buildRequest(command.args.map(ownPath)[0], options, command, caller);
  return { ...request, ...results(options.resultDirectory) };
}

function replayed(request: object): string[] {
  const result = { request: JSON.parse(JSON.stringify(request)), image: null };
  return shellWords(replayCommand(result as unknown as Result) ?? '');
}

const RUNS: readonly (readonly string[])[] = [
  ['-r', 'busybox', '--', 'true'],
  ['--from', 'built', '--', 'true'],
  ['-r', 'busybox', '--isolation', 'vm', '--kernel', '/k', '--allow-missing', 'kvm', '--', 'uname'],
  [
    ...['-r', 'busybox', '--env', 'A=A’s value', '--workdir', '/w', '--user', '7:8'],
    ...['--bind', '/a b:/c', '--bind', '/d:/e:ro', '--bind', '/f:/g:ro,Z', '--bind', '/h:/i:z'],
    ...[
      '--allow-host-write',
      '--tmpfs',
      '/t',
      '--tmpfs',
      '/s:1M',
      '--guest-bind',
      '/u:/v:ro',
      '--guest-bind',
      '/u:/w',
      '--read-only',
      '--on-disk',
      '--hostname',
      'me',
    ],
    ...['--no-protect', '--protect', 'Makefile', '--publish', '8080:80'],
    ...['--copy-in', '/x:/y', '--secret', 'token=FILE', '--label', 'static:a_t'],
    ...['--cap-add', 'NET_BIND_SERVICE', '--seccomp', 'strict', '--egress', 'example.com:443'],
    ...['--memory', '1G', '--cpus', '1.5', '--pids', '9', '--io-read', '1M', '--io-write', '2M'],
    ...['--disk', '3M', '--timeout', '1h30m', '--stall-timeout', '500ms', '--keep=2h'],
    ...[
      '--allow-missing',
      'landlock',
      '--artifact',
      'a*',
      '--artifact',
      "it's",
      '--resultdir',
      '/o',
    ],
    ...['--', 'sh', '-c', 'echo "$A" > a'],
  ],
  ['-r', 'busybox', '--profile', 'nested', '--network', 'host', '--allow-host-network', '--', 'a'],
  [
    ...['-r', 'busybox', '--label', 'none', '--network'],
    ...['net,address=192.168.122.7/24,gateway=192.168.122.1,mac=52:54:00:12:34:56', '--network'],
    ...['two,dhcp,address=fd00::7/64,route=fd77::/48%fd00::9,filter=a,filter.PORT=80,peers'],
    ...['--network', 'three,isolated', '--', 'a'],
  ],
];

test('the runs below give every option that a request has', (t) => {
  const given = new Set(RUNS.flat());
  const flags = Object.entries(SANDBOX).map(([name, row]) => [name, flagOf(name, row)]);
  const missing = flags.filter(
    ([, flag = '']) => !given.has(flag) && !RUNS.flat().some((word) => word.startsWith(`${flag}=`)),
  );
  t.deepEqual(
    missing.map(([name]) => name),
    ['image'],
  );
});

test('kiln run is repeated with the same request', (t) => {
  for (const words of RUNS) {
    const request = runRequestOf(words);
    const { env, secrets } = request;
    // As result.json has them.
    const names = { env: Object.keys(env), secrets: secrets?.map(({ name }) => name) };
    const told = { ...request, ...toldWords(SANDBOX, request), ...names };
    t.is(typeof told.network, 'string');
    const [kiln, run, ...again] = replayed(told);
    t.deepEqual([kiln, run], ['kiln', 'run']);
    t.deepEqual(runRequestOf(again), request);
  }
});

const BUILDS: readonly (readonly string[])[] = [
  ['-r', 'debian-build', '/a.src.rpm'],
  [
    ...['-r', 'debian-build', '--define', 'a b c', '--with', 'x', '--without', 'y', '--nocheck'],
    ...['--target', 'noarch', '--rpmbuild-opts', "--quiet '--define=a b'", '--short-circuit'],
    ...['install', '--enable-network=build', '--egress', 'example.com', '--postinstall'],
    ...['--additional-package', 'gcc', '--addrepo', '/usr', '--cache', 'ccache:1G'],
    ...['--addrepo', 'https://example.com/repo,gpgkey=/key', '--memory', '1G', '--io-read', '1M'],
    ...['--disk', '1G', '--timeout', '60s', '--keep=1h', '--provenance-key', '/p', '--sign-key'],
    ...['/s', '--sign-passphrase-file', '/f', '--builder-id', 'urn:x', '--offline', '--update'],
    ...['--resultdir', '/o', '--spec', '/a.spec', '--sources', '/src'],
  ],
  ['--lock', '/lock.json', '--enable-network', '--network', 'net', '--spec', '/a.spec'],
];

test('kiln build is repeated with the same request', (t) => {
  for (const words of BUILDS) {
    const request = buildRequestOf(words);
    const [kiln, build, ...again] = replayed(request);
    t.deepEqual([kiln, build], ['kiln', 'build']);
    t.deepEqual(buildRequestOf(again), request);
  }
});

const RECIPES: readonly (readonly string[])[] = [
  ['/r.yaml'],
  [
    ...[
      '-r',
      'debian-build',
      '--param',
      'version=VALUE',
      '--param',
      'b=VALUE',
      '--bind',
      '/a:/b:ro',
    ],
    '--no-protect',
    ...['--allow-host', '--allow-host-write', '--sources', '/s', '--offline', '--memory', '1G'],
    ...[
      '--disk',
      '2G',
      '--timeout',
      '1h',
      '--stall-timeout',
      '5m',
      '--resultdir',
      '/o',
      '--keep=2h',
    ],
    '/a b/r.ts',
  ],
];

function recipeRequestOf(words: readonly string[]) {
  const command = new KilnCommand('build').argument('[source]');
  command.rows({ ...BUILD, ...RECIPE }, caller).parse([...words], { from: 'user' });
  const options = command.opts<BuildOptions & RecipeOptions>();
  const { host: _, ...request } = recipeRequest(command.args[0] ?? '', options, caller);
  return { ...request, ...results(options.resultDirectory) };
}

test('kiln build of a recipe is repeated with the same request', (t) => {
  for (const words of RECIPES) {
    // A function asks the caller's rules, and is equal to none.
    const { admit: _, ...request } = recipeRequestOf(words);
    const asked = askedFor(recipeRequestOf(words));
    const [kiln, build, ...again] = replayed({ recipe: { ...asked, steps: ['true'] } });
    t.deepEqual([kiln, build], ['kiln', 'build']);
    const { admit: __, ...repeated } = recipeRequestOf(again);
    t.deepEqual(repeated, request);
  }
  const { request } = resultOfFailedRecipe(
    recipeRequestOf(['/r.ts', '--param', 'token=hush']),
    ...([125, new Error('broken'), new Timeline(), <Value>(value: Value) => value] as const),
  );
  t.notRegex(JSON.stringify(request), /hush/);
  const again = replayed(request);
  t.deepEqual([again.slice(2, 4), again.at(-1)], [['--param', 'token=VALUE'], '/r.ts']);
});

const MEMBER = {
  ...{ name: 'a', state: 'built' as const, reason: undefined, resultDirectory: '/o/a' },
  ...{ needs: [], packages: [], durationMs: 1, report: undefined },
};

function chainRequestOf(words: readonly string[]) {
  const command = new KilnCommand('build').argument('[source...]');
  command.rows({ ...BUILD, ...CHAIN }, caller).parse([...words], { from: 'user' });
  const options = command.opts<BuildOptions & ChainOptions>();
  const request = chainRequest(command.args.map(ownPath), options, command, caller);
  return { farm: options.farm, request: { ...request, ...results(options.resultDirectory) } };
}

test('kiln build --chain is repeated with the same request, also on a farm', (t) => {
  const [first = [], second = []] = BUILDS.map((words) =>
    words.filter(
      (word) => !['/a.src.rpm', '--spec', '/a.spec', '--sources', '/src'].includes(word),
    ),
  );
  const all = ['--chain', '/b.src.rpm', '/a b.src.rpm', '--jobs', '3', '--continue', '--recurse'];
  for (const words of [
    [...first, ...all],
    [...second, ...all],
    [...first, ...all, '--farm'],
  ]) {
    const { farm, request } = chainRequestOf(words);
    const members = request.sources.map((source) => ({ ...MEMBER, source }));
    const report = { startedAt: new Date(), members, repository: '/r', durationMs: 1 };
    const json = chainJson(request, { ...report, exitStatus: 0, failure: undefined });
    const told = JSON.parse(JSON.stringify({ ...json, ...(farm && { farm: { workers: {} } }) }));
    const [kiln, build, ...again] = shellWords(replayChain(told) ?? '');
    t.deepEqual([kiln, build], ['kiln', 'build']);
    t.deepEqual(chainRequestOf(again), { farm, request });
  }
});

test('a result without its request has no command to repeat it', (t) => {
  t.deepEqual(replayed({ ...runRequestOf(RUNS[0] ?? []), recipe: { path: '/r.yaml' } }), []);
  t.deepEqual(replayed({}), []);
  t.is(replayChain({ request: { image: 'x', jobs: 1 }, members: [] }), undefined);
});
