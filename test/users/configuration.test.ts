/** kiln.yaml: what it says, what it says by default, and all that is wrong with one. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { stringify } from 'yaml';
import { RecipeError } from '../../src/recipe/problem.ts';
import { isPlain } from '../../src/serve/short.ts';
import { asConfigured, readConfiguration, shareOf } from '../../src/users/configuration.ts';

const readUserPolicy = (file: string) => readConfiguration(file).policy;

const folder = mkdtempSync(join(tmpdir(), 'kiln-config-'));

test.after.always(() => rmSync(folder, { recursive: true }));

function written(name: string, text: string | Buffer, mode = 0o644): string {
  const file = join(folder, name);
  writeFileSync(file, text);
  chmodSync(file, mode);
  return file;
}

function problems(file: string): string[] {
  try {
    readUserPolicy(file);
    return [];
  } catch (error) {
    if (!(error instanceof RecipeError)) throw error;
    return error.problems.map(({ line, path, message }) => `${line} ${path}: ${message}`);
  }
}

test('without a file, or with an empty one, users have the default rights', (t) => {
  const policy = readUserPolicy(join(folder, 'missing'));
  t.deepEqual(readUserPolicy(written('empty', '# nothing\n')), policy);
  t.like(policy, { group: 'kiln', egress: [], networks: [], capabilities: [], farm: false });
  t.is(policy.limits.sandboxes, 4);
  t.is(policy.limits.cpus, undefined);
});

test('the limits in the file apply, and are divided among the sandboxes', (t) => {
  const text = `users:
  group: builders
  farm: true
  egress: ['*.example.org', 'example.org:8080']
  capabilities: [net_bind_service]
  limits: { sandboxes: 2, memory: 4G, cpus: 3, disk: 1G, keep: 2h, pids: 100 }
`;
  const policy = readUserPolicy(written('some', text));
  t.true(policy.farm);
  t.deepEqual(policy.capabilities, ['NET_BIND_SERVICE']);
  t.is(policy.limits.keep, 7_200_000);
  t.deepEqual(shareOf(policy), {
    memory: 2 * 2 ** 30,
    cpus: 1.5,
    pids: 50,
    storage: 64 * 2 ** 30,
    disk: 2 ** 30,
  });
});

test('the settings in force can be written into the file as they are shown', (t) => {
  const text =
    'users: { limits: { memory: 3G, disk: 1500M, storage: 1000001, keep: 36h, cpus: 2 } }';
  const policy = readUserPolicy(written('some', text));
  const shown = stringify(asConfigured(policy));
  t.regex(shown, /memory: 3G\n.*disk: 1500M\n.*storage: 1000001\n.*keep: 36h\n/s);
  t.deepEqual(readUserPolicy(written('shown', shown)), policy);
  const usual = readUserPolicy(join(folder, 'missing'));
  t.deepEqual(readUserPolicy(written('usual', stringify(asConfigured(usual)))), usual);
});

test('all mistakes are reported at once, each with its line', (t) => {
  const text = `users:
  groups: kiln
  egress: ['not a host']
  capabilities: [FLY]
  limits:
    sandboxes: 0
    memory: lots
sandbox: {}
`;
  const file = written('wrong', text);
  const found = problems(file);
  const lines = found.map((problem) => Number(problem.split(' ')[0])).sort((a, b) => a - b);
  t.deepEqual(lines, [2, 3, 4, 6, 7, 8], found.join('\n'));
  t.regex(found.join('\n'), /^6 users\.limits\.sandboxes: must be (?:more than 0|at least 1)$/m);
  t.throws(() => readUserPolicy(file), { code: 'E_CONFIGURATION' });
});

test('a setting that users cannot have is refused at its place', (t) => {
  const text = (more: string) => written('unsafe', `users: { ${more} }\n`);
  t.regex(problems(text('networks: [lan, host]')).join(), /host’s own network is not for users/);
  t.regex(problems(text('mockConfigs: /tmp')).join(), /others than root can write there/);
  t.deepEqual(problems(text('networks: [lan], mockConfigs: /usr')), []);
});

test('a file that others can write is not trusted', (t) => {
  t.regex(problems(written('open', 'users: {}\n', 0o666)).join(), /others than root can write it/);
});

test('only YAML that takes no time to parse counts as plain', (t) => {
  t.true(isPlain('# mine\ndefaults:\n  image: debian-build # the usual one\n  memory: 1.5G\n\n'));
  for (const text of [
    'a: [b]',
    'a: {}',
    'a: &b c',
    'a: *b',
    "a: 'b'",
    'a: |',
    '- b',
    'a: b c',
    '%YAML 1.2',
  ]) {
    t.false(isPlain(`defaults:\n  memory: 1G\n${text}\n`), text);
  }
  t.false(isPlain('a:\n'.repeat(40)));
  t.false(isPlain(`# ${'x'.repeat(2000)}`));
});

test('mistakes in defaults and repositories are reported with their lines, too', (t) => {
  const text = `defaults:
  image: ./mine.yaml
  memory: 1K
  network: host
repositories:
  mirrors:
    ftp://a.example: [https://b.example]
    https://a.example: [https://me:secret@b.example, '']
    https://c.example: []
  proxy:
    http: proxy
    no_proxy: ['a, b']
`;
  const lines = problems(written('wrong', text)).map((problem) => Number(problem.split(' ')[0]));
  t.deepEqual(
    [...lines].sort((a, b) => a - b),
    [2, 3, 4, 7, 8, 8, 9, 11, 12],
  );
  const good = 'repositories: { mirrors: { "HTTPS://A.example/x/../y": [http://b.example] } }';
  const { mirrors } = readConfiguration(written('good', good)).repositories;
  t.deepEqual(mirrors, { 'https://a.example/y/': ['http://b.example/'] });
});

test('a file that is not UTF-8 is refused with the line, and none of its settings apply', (t) => {
  const latin = Buffer.from('defaults:\n  image: gr\u00fcn\n', 'latin1');
  const [problem = '', ...more] = problems(written('latin', latin));
  t.regex(problem, /: line 2 is not UTF-8; save it as UTF-8: `iconv/);
  t.deepEqual(more, []);
  t.deepEqual(problems(written('utf8', 'defaults:\n  image: gr\u00fcn\ufffd\n')), []);
});
