import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { configMeaning } from '../../src/jobs/mock/config/recipe.ts';
import { compareFolder, kilnsOpinion } from './second-opinion.ts';

/** Holds mock's own configurations (`etc/mock` of mock-core-configs); their test is skipped without. */
const CONFIGS = process.env.KILN_MOCK_CONFIGS ?? '';

const FIXTURES = join(import.meta.dirname, '../../fixtures/mock-configs');

test('configurations with every construct mean what Python and Jinja make of them', async (t) => {
  const loaded = await compareFolder(t, FIXTURES);
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

test('repo_arch is the target, or what repo_arch_map says, and is never empty', async (t) => {
  const value = async (name: string, option: string) =>
    (await kilnsOpinion(FIXTURES, name)).options.value(option);
  t.is(await value('arches-armv7hl', 'repo_arch'), 'armv7');
  const conf = String(await value('arches-x86_64', 'dnf.conf'));
  t.regex(conf, /arch=x86_64&[\s\S]*x86_64\/media$/m);
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
  const loaded = await compareFolder(t, directory);
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
    const config = await kilnsOpinion(directory, name);
    const host = String(config.options.value('target_arch'));
    const legal = config.options.value('legal_host_arches') as readonly string[] | undefined;
    const machine = legal?.includes(host) === false ? legal[0] : host;
    t.notThrows(() => configMeaning(config, { host: machine ?? host, switches: [] }), name);
  }
});
