/** The notices about third parties' code that a package of kiln comes with. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

const top = join(import.meta.dirname, '../..');

const RULE = '-'.repeat(80);

function introduction(loaded: readonly string[]): string {
  return `Third-party notices

kiln runs with these packages. Most are inside the files of this folder. ${loaded.join(' and ')} are loaded from
node_modules when they are needed, unmodified: put another version of them there and kiln uses that one, as
the LGPL of openpgp asks for. Their sources are at the addresses below.

kiln and kiln-init are linked statically against the system's C library; that of GNU is under the LGPL 2.1.
To link them against another one, call \`cc -std=c17 -O2 -static -I. -I../../dist/wire -o NAME *.c\` in src/client,
and in src/guest with ../../dist/wire/wire.c as well.
Other libraries of the system (libvirt, libsolv, librpmio, libseccomp, libzstd, liblzma) are loaded, and are no
part of kiln.

scripts/build.ts makes this file, from the list of the modules that it has put into the bundle.
`;
}

interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly license?: string;
  readonly author?: string | { readonly name: string };
  readonly homepage?: string;
  readonly repository?: string | { readonly url: string };
}

interface Notice {
  readonly title: string;
  /** What stands in its licence file; without one, whose it is. */
  readonly text: string;
}

async function noticeOf(path: string): Promise<Notice> {
  const folder = join(top, 'node_modules', path);
  const manifest = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as Manifest;
  const { name, version, license, repository, author } = manifest;
  const address =
    manifest.homepage ?? (typeof repository === 'string' ? repository : repository?.url);
  const files = (await readdir(folder)).filter((file) =>
    /^(licen[cs]e|copying|notice)/i.test(file),
  );
  const texts = await Promise.all(files.sort().map((file) => readFile(join(folder, file), 'utf8')));
  const by = typeof author === 'string' ? author : author?.name;
  const text = texts.map((one) => one.trim()).join('\n\n');
  return {
    title: `${name} ${version} (${license ?? 'unknown'}) ${address ?? ''}`.trim(),
    text: text === '' ? `${license}, by ${by ?? 'its authors'}; it came without a text.` : text,
  };
}

/** The package that a module of a bundle is of, as a path below node_modules; undefined for kiln's own. */
function packageOf(module: string): string | undefined {
  const below = /^.*?\/node_modules\/(.*)$/.exec(module)?.[1];
  return below === undefined
    ? undefined
    : /^(?:.*\/node_modules\/)?(?:@[^/]+\/)?[^/]+/.exec(below)?.[0];
}

/**
 * The notices: `modules` are the paths of all files in the bundle, `loaded` the packages that it loads. Licences
 * are as the packages brought them.
 */
export async function thirdPartyNotices(
  modules: readonly string[],
  loaded: readonly string[],
): Promise<string> {
  const inside = modules.map(packageOf).filter((name) => name !== undefined);
  const packages = [...new Set([...inside, ...loaded])].sort();
  const byText = Map.groupBy(await Promise.all(packages.map(noticeOf)), ({ text }) => text);
  const parts = [...byText].map(
    ([text, group]) => `${RULE}\n${group.map(({ title }) => title).join('\n')}\n\n${text}\n`,
  );
  return [introduction(loaded), ...parts].join('\n');
}
