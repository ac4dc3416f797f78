/**
 * Writes THIRD-PARTY-NOTICES to standard output: the packages that kiln's bundle has in it or loads, by
 * package-lock.json, with their licences as they came. `npm run notices` after dependencies have changed;
 * a test compares.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

const top = join(import.meta.dirname, '..');

/** Under the LGPL: not in the bundle. */
const REPLACEABLE = ['openpgp'];

const INTRODUCTION = `Third-party notices

kiln runs with these packages. Most are inside dist/; koffi and those under the LGPL
(${REPLACEABLE.join(', ')}) are loaded from node_modules at run time, unmodified: put another
version of them there and kiln uses that one. Their sources are at the addresses below.
Libraries of the system (libvirt, libsolv, librpmio, libseccomp, libzstd, the C library) are
no part of kiln.

scripts/third-party-notices.ts makes this file.
`;

const RULE = '-'.repeat(80);

interface Locked {
  readonly version: string;
  readonly license?: string;
  readonly dev?: boolean;
  /** Prebuilt code for one kind of machine, under its parent's licence; and the Node that tests may use. */
  readonly optional?: boolean;
}

interface Manifest {
  readonly author?: string | { readonly name: string };
  readonly homepage?: string;
  readonly repository?: string | { readonly url: string };
}

interface Notice {
  readonly title: string;
  /** What stands in its licence file; without one, whose it is. */
  readonly text: string;
}

async function noticeOf(path: string, { version, license }: Locked): Promise<Notice> {
  const folder = join(top, path);
  const manifest = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as Manifest;
  const name = path.replace(/^.*node_modules\//, '');
  const { repository, author } = manifest;
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

const lock = JSON.parse(await readFile(join(top, 'package-lock.json'), 'utf8')) as {
  readonly packages: Readonly<Record<string, Locked>>;
};
const used = Object.entries(lock.packages).filter(
  ([path, { dev, optional }]) => path !== '' && dev !== true && optional !== true,
);
const notices = await Promise.all(used.map(([path, entry]) => noticeOf(path, entry)));
const byText = Map.groupBy(notices, ({ text }) => text);
const parts = [...byText].map(
  ([text, group]) => `${RULE}\n${group.map(({ title }) => title).join('\n')}\n\n${text}\n`,
);
process.stdout.write([INTRODUCTION, ...parts].join('\n'));
