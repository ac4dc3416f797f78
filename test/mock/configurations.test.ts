import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { KilnError } from '../../src/errors.ts';
import type { ConfigValue } from '../../src/jobs/mock/config/language/values.ts';
import { expandAll, loadConfig } from '../../src/jobs/mock/config/load.ts';
import { configMeaning } from '../../src/jobs/mock/config/recipe.ts';

/** Holds mock's own configurations (`etc/mock` of mock-core-configs); their test is skipped without. */
const CONFIGS = process.env.KILN_MOCK_CONFIGS ?? '';

const FIXTURES = join(import.meta.dirname, '../../fixtures/mock-configs');

/** What Python and Jinja make of each configuration of a folder, or the error. */
type Expected = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

async function expected(directory: string): Promise<Expected> {
  const script = join(import.meta.dirname, 'load-configs.py');
  const { stdout } = await execa('/usr/bin/python3', [script, directory]);
  return JSON.parse(stdout) as Expected;
}

/** What kiln makes of one: the same options, or the error. */
function read(directory: string, name: string): Record<string, ConfigValue> {
  const settings = {
    paths: { root: '/var/lib/kiln-test' },
    directory,
    arch: 'x86_64',
    home: '/nonexistent',
  };
  return Object.fromEntries(
    expandAll(loadConfig(join(directory, `${name}.cfg`), settings).options),
  );
}

/** Compares all configurations of a folder, and returns the names of those that load. */
async function compare(t: ExecutionContext, directory: string): Promise<string[]> {
  const loaded: string[] = [];
  for (const [name, { error, ...options }] of Object.entries(await expected(directory))) {
    if (error !== undefined) {
      const ours = t.throws(() => read(directory, name), { instanceOf: KilnError }, name);
      t.is(ours?.code, 'E_MOCK_CONFIG', name);
      continue;
    }
    const ours = read(directory, name);
    for (const [option, value] of Object.entries(options)) {
      t.deepEqual(ours[option], value, `${option} of ${name}`);
    }
    loaded.push(name);
  }
  return loaded;
}

test('every construct of mock’s configurations comes to what Python and Jinja make of it', async (t) => {
  const loaded = await compare(t, FIXTURES);
  t.deepEqual(loaded.sort(), [
    'arches-aarch64',
    'arches-armv7hl',
    'arches-x86_64',
    'arches-x86_64_v2',
    'layers+more-x86_64',
    'numbers-41-i686',
    'numbers-41-x86_64',
  ]);
});

test('repo_arch: the target, or what repo_arch_map says, and never nothing', (t) => {
  t.is(read(FIXTURES, 'arches-armv7hl').repo_arch, 'armv7');
  t.regex(
    String(read(FIXTURES, 'arches-x86_64')['dnf.conf']),
    /arch=x86_64&[\s\S]*x86_64\/media$/m,
  );
});

/** A copy of `from` in which files that hold only another one's name are links again, as mock has them. */
async function restored(t: ExecutionContext, from: string): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-mock-core-'));
  t.teardown(() => rm(directory, { recursive: true }));
  for (const folder of ['.', 'templates']) {
    await mkdir(join(directory, folder), { recursive: true });
    for (const file of await readdir(join(from, folder))) {
      if (!/\.(?:cfg|tpl)$/.test(file)) continue;
      const path = join(from, folder, file);
      const text = await readFile(path, 'utf8');
      const target = join(directory, folder, file);
      const isLink = !text.includes('\n') && existsSync(join(from, folder, text));
      await (isLink ? symlink(text, target) : copyFile(path, target));
    }
  }
  return directory;
}

(CONFIGS === '' ? test.skip : test)('mock’s own configurations, all of them', async (t) => {
  const directory = await restored(t, CONFIGS);
  const loaded = await compare(t, directory);
  const all = (await readdir(directory)).filter((name) => name.endsWith('.cfg'));
  // What does not load in mock either includes a file of /etc/mock that is not there.
  const others = all
    .map((name) => name.slice(0, -'.cfg'.length))
    .filter((it) => !loaded.includes(it));
  t.deepEqual(
    others.filter((name) => !/^(?:custom-1-.*|site-defaults|chroot-aliases)$/.test(name)),
    [],
  );
  t.true(loaded.length >= 234, `${loaded.length} of ${all.length - 2}`);
  // And each of them is an image recipe on a machine of its architecture.
  for (const name of loaded) {
    const config = loadConfig(join(directory, `${name}.cfg`), {
      paths: { root: '/var/lib/kiln-test' },
      directory,
      arch: 'x86_64',
      home: '/nonexistent',
    });
    const host = String(config.options.get('target_arch'));
    const legal = config.options.get('legal_host_arches') as readonly string[] | undefined;
    const machine = legal?.includes(host) === false ? legal[0] : host;
    t.notThrows(() => configMeaning(config, { host: machine ?? host, switches: [] }), name);
  }
});
