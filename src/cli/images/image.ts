import { counted } from '../../counted.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { sizeText } from '../../host/calls/system-error.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { meantImage } from '../../image/find.ts';
import { noting, renewImage } from '../../image/open.ts';
import { removeUnusedPackages, unusedPackages } from '../../image/store/gc.ts';
import {
  type ImagePlace,
  type ListedImage,
  removeImage,
  visibleImages,
} from '../../image/store/images.ts';
import {
  nameFor,
  namesFor,
  ownersOf,
  ROOT,
  readContents,
  readManifest,
} from '../../image/store/manifest.ts';
import { unusedPackagesOf } from '../../image/store/user-storage.ts';
import { flag } from '../../options/kind.ts';
import { opened } from '../../options/places.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { path, ROOTS } from '../../options/rules.ts';
import { allowHost, quiet } from '../../options/sandbox.ts';
import { architecture } from '../../options/texts.ts';
import { forbiddenError } from '../../users/configuration.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { inTurn, printWarning } from '../output/errors.ts';
import { printEither, printJson } from '../output/print.ts';
import { withProgress } from '../output/progress.ts';
import { type Columns, type ListOptions, listing, printRows } from '../output/table.ts';
import { addTransferCommands } from './image-transfer.ts';
import { addManageCommands } from './manage.ts';

const EXAMPLES = `
IMAGE is a recipe’s name or path (.yaml), a lock (.json), or an image’s id, its beginning, or name.

Examples:
  kiln image build debian-build
  kiln image lock recipes/images/debian-build.yaml
  kiln image build recipes/images/debian-build.lock.json   # as it was locked
  kiln image ls
  kiln image show debian-build
  kiln image rm 3fa9c1d2
  kiln image tag debian-build builder
  kiln image export debian-build -o debian-build.tar.zst
  kiln image import oci-folder --name from-elsewhere`;

/** Of `image build` and `image lock`. */
const arch = row(architecture, 'open', {
  help: 'choose packages of this architecture; other ones than this machine’s need an emulator',
});

const BUILD = {
  arch,
  update: row(flag, 'open', {
    help: 'fetch the metadata again, and ignore the lock beside the recipe',
  }),
  json: row(flag, 'open', { help: 'print the manifest of the image as JSON instead of its id' }),
  allowHost: allowHost(),
  quiet,
};

type BuildOptions = ValuesOf<typeof BUILD>;

const LOCK = {
  output: row(opened<string>('file', path('result')), 'open', {
    help: 'write the lock to this file; by default beside the recipe',
    short: 'o',
  }),
  arch,
  allowHost: BUILD.allowHost,
  quiet,
};

const REMOVE = {
  packages: row(flag, ROOTS, { help: 'also remove unpacked packages that no image uses any more' }),
};

export function command(caller: Caller): KilnCommand {
  const it = new KilnCommand('image')
    .description('Build, lock, list, show, remove, export and import images.')
    .addHelpText('after', EXAMPLES);
  it.command('build')
    .description('Build an image unless it exists; print its id.')
    .argument('<image>', 'the name or path of a recipe, or a lock')
    .rows(BUILD)
    .examples('kiln image build debian-build', 'kiln image build --arch aarch64 fedora-44')
    .action((name: string, options: BuildOptions) => build(name, options, caller));
  it.command('lock')
    .description(
      'Choose the packages for a recipe and write them to its lock; later builds use exactly these.',
    )
    .argument('<recipe>', 'the name or path of a recipe (.yaml)')
    .rows(LOCK)
    .examples('kiln image lock mine.yaml', 'kiln image build mine.lock.json')
    .action(async (name: string, options: ValuesOf<typeof LOCK>) => {
      await using engine = caller.openEngine({ allowHost: options.allowHost });
      const { lockRecipe } = await import('../../image/lock-recipe.ts');
      const { file, warnings } = await withProgress(caller, (onProgress) =>
        lockRecipe(
          engine,
          name,
          (beside) => caller.paths.resultAt(options.output ?? beside),
          onProgress,
          options.arch,
        ),
      );
      for (const message of warnings) printWarning({ code: 'solver', message }, caller.stderr);
      caller.stdout.say(`${file}\n`);
    });
  it.command('ls')
    .description('List images, the most recently used first.')
    .rows(listing('{{.Name}} {{.Size}}'))
    .examples('kiln image ls', 'kiln image ls --json | jq -r ".[].id"')
    .action((options: ListOptions) => list(options, caller));
  it.command('show')
    .description('Show what an image is and what it is made of.')
    .argument('<image>', 'the id of an image, its first digits, or a name')
    .examples('kiln image show debian-build | jq -r ".packages[].nevra"')
    .action(async (name: string) => {
      await using engine = caller.openEngine();
      printJson(caller.stdout, await imageJson(engine, name), 2);
    });
  it.command('rm')
    .description('Remove images that are not in use.')
    .argument('<image...>', 'ids, their first digits, or names')
    .rows(REMOVE)
    .examples('kiln image rm 3fa9c1d2', 'kiln image rm --packages debian-build')
    .action((ids: string[], options: ValuesOf<typeof REMOVE>) => remove(ids, options, caller));
  addManageCommands(it, caller);
  addTransferCommands(it, caller);
  it.command('schema')
    .description('Print the JSON Schema of image recipes.')
    .examples('kiln image schema > image.schema.json')
    .action(async () => {
      const { imageRecipeJsonSchema } = await import('../../recipe/image-recipe.ts');
      printJson(caller.stdout, imageRecipeJsonSchema(), 2);
    });
  return it;
}

/** @throws KilnError E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS */
export async function imageJson(engine: Engine, name: string): Promise<object> {
  const manifest = readManifest(engine.paths, await meantImage(engine, name, engine.cwd()));
  if (manifest === undefined) throw noImageError(name);
  const { packages, exactReasons } = await readContents(engine.paths, manifest.id);
  const shown = nameFor(engine.paths, manifest, engine.owner) ?? manifest.name;
  return { ...manifest, name: shown, exactReasons, packages };
}

async function build(name: string, options: BuildOptions, caller: Caller): Promise<void> {
  await using engine = caller.openEngine({ allowHost: options.allowHost });
  const started = Date.now();
  const update = options.update === true;
  await using image = await withProgress(caller, (onProgress) =>
    noting(caller.storeChanged, () =>
      renewImage(engine, name, { update, arch: options.arch, onProgress }),
    ),
  );
  const { manifest } = image;
  for (const message of manifest.warnings) printWarning({ code: 'image', message }, caller.stderr);
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  if (!caller.isQuiet) {
    caller.stderr.say(
      `kiln: ${manifest.name}: ${counted(manifest.packageCount, 'package')}, ${sizeText(manifest.bytes)}, ready after ${seconds} s\n`,
    );
  }
  printEither(caller.stdout, options, manifest, () => manifest.id);
}

async function list(options: ListOptions, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const images = await visibleImages(engine);
  const names = (manifest: ListedImage['manifest']) =>
    namesFor(engine.paths, manifest, engine.owner);
  const columns: Columns<ListedImage> = [
    ['ID', ({ manifest }) => manifest.id.slice(0, 12)],
    // In brackets: what it was called when it was made, which means another image now, or none.
    ['NAME', ({ manifest }) => names(manifest).join(', ') || `(${manifest.name})`],
    ...COLUMNS,
    ['OWNER', ({ manifest }) => ownerShown(engine, manifest)],
  ];
  const owners = (manifest: ListedImage['manifest']) =>
    [...ownersOf(engine.paths, manifest)].map(([uid, one]) => ({ uid, ...one }));
  const iso = (time: number) => new Date(time).toISOString();
  printRows(caller.stdout, columns, images, options, ({ manifest, lastUse, ...rest }) => ({
    ...{ ...manifest, ...rest, created: iso(manifest.created), lastUse: iso(lastUse) },
    names: names(manifest),
    ...(engine.owner === undefined ? { owners: owners(manifest) } : {}),
  }));
}

const COLUMNS: Columns<ListedImage> = [
  ['PACKAGES', ({ manifest }) => String(manifest.packageCount)],
  ['SIZE', ({ manifest }) => sizeText(manifest.bytes)],
  ['OWN', ({ manifest }) => sizeText(manifest.ownBytes)],
  ['CREATED', ({ manifest }) => minute(manifest.created)],
  ['LAST USE', ({ lastUse }) => minute(lastUse)],
  ['USE', ({ inUse }) => (inUse ? 'in use' : '')],
];

function minute(time: number): string {
  return new Date(time).toISOString().slice(0, 16).replace('T', ' ');
}

function ownerShown({ paths, owner }: ImagePlace, manifest: ListedImage['manifest']): string {
  const owners = ownersOf(paths, manifest);
  if (owner !== undefined) return owners.has(owner.uid) ? 'you' : 'root';
  const roots = owners.get(ROOT);
  if (roots !== undefined) return roots.private ? 'root, private' : 'root';
  return [...owners].map(([uid, { name }]) => `user ${uid}: ${name}`).join(', ');
}

async function remove(
  ids: string[],
  options: ValuesOf<typeof REMOVE>,
  caller: Caller,
): Promise<void> {
  await using engine = caller.openEngine();
  const { paths } = engine;
  let freed = 0;
  const removeOne = async (wanted: string) => {
    freed += await removeNamed(engine, wanted, (id) => caller.stdout.say(`${id}\n`));
  };
  await inTurn(ids, removeOne, caller);
  const { owner } = engine;
  if (options.packages === true) freed += (await removeUnusedPackages(paths)).bytes;
  const left = await (owner === undefined ? unusedPackages(paths) : unusedPackagesOf(paths, owner));
  const whose = owner === undefined ? 'no image uses' : 'no image of yours uses';
  const how = owner === undefined ? '--packages removes them' : '`kiln gc` removes them';
  const rest =
    left.count === 0
      ? ''
      : `; ${counted(left.count, 'package')} that ${whose} (${sizeText(left.bytes)}) ${left.count === 1 ? 'is' : 'are'} kept; ${how}`;
  caller.stderr.say(`kiln: freed ${sizeText(freed)}${rest}\n`);
}

/**
 * Removes an image for its owner. @returns the bytes that were its own
 * @throws KilnError E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS, E_IMAGE_IN_USE, E_FORBIDDEN
 */
export async function removeNamed(
  engine: Engine,
  wanted: string,
  removed: (id: string) => void,
): Promise<number> {
  const id = await meantImage(engine, wanted, engine.cwd());
  refuseOthers(engine, id);
  const own = readManifest(engine.paths, id)?.ownBytes ?? 0;
  const tree = await removeImage(engine.paths, id, engine.owner?.uid);
  removed(id);
  if (tree !== undefined) await removeTree(tree);
  return own;
}

function noImageError(name: string): KilnError {
  return new KilnError('E_IMAGE_MISSING', `there is no image ${name}`, {
    hint: '`kiln image ls` lists them; `kiln image build` makes one',
  });
}

function refuseOthers({ paths, owner }: ImagePlace, id: string): void {
  const manifest = readManifest(paths, id);
  if (owner === undefined || manifest === undefined) return;
  if (nameFor(paths, manifest, owner) === undefined) throw noImageError(id);
  if (!ownersOf(paths, manifest).has(owner.uid))
    throw forbiddenError(`to remove the image ${id.slice(0, 12)}`, 'it is root’s');
}
