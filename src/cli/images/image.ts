import { stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { Command } from 'commander';
import { KilnError } from '../../errors.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { writeUserFile } from '../../host/files/user-file.ts';
import { findStoredImage, resolveImage } from '../../image/find.ts';
import { openImage } from '../../image/open.ts';
import { buildNamed, lockPathOf, planFromRecipe } from '../../image/plan.ts';
import type { OnImageProgress } from '../../image/progress.ts';
import { removeUnusedPackages, unusedPackages } from '../../image/store/gc.ts';
import {
  findImage,
  type ImagePlace,
  imagesNamed,
  type ListedImage,
  removeImage,
  visibleImages,
} from '../../image/store/images.ts';
import { readContents, readManifest } from '../../image/store/manifest.ts';
import { nameFor, ownersOf, ROOT } from '../../image/store/owners.ts';
import type { Engine } from '../../sandbox/open.ts';
import { forbidden } from '../../users/user.ts';
import type { Caller } from '../caller/caller.ts';
import { printJson } from '../output/print.ts';
import {
  type Columns,
  formatOption,
  type ListOptions,
  printRows,
  sizeText,
} from '../output/table.ts';
import { imageProgress } from './image-progress.ts';
import { addTransferCommands } from './image-transfer.ts';

const EXAMPLES = `
IMAGE is a recipe’s name or path (.yaml), a lock (.json), or an image’s id, its beginning, or name.

Examples:
  kiln image build debian-build
  kiln image lock recipes/images/debian-build.yaml   # then: kiln image build …/debian-build.lock.json
  kiln image ls
  kiln image show debian-build
  kiln image rm 3fa9c1d2
  kiln image export debian-build -o debian-build.tar.zst
  kiln image import oci-folder --name from-elsewhere`;

interface JsonOption {
  readonly json?: boolean;
}

interface BuildOptions extends JsonOption {
  readonly update?: boolean;
}

/** `kiln image`. */
export function command(caller: Caller): Command {
  const it = new Command('image')
    .description('Build, lock, list, show, remove, export and import images.')
    .addHelpText('after', EXAMPLES);
  it.command('build')
    .description('Build an image unless it exists; print its id.')
    .argument('<image>', 'the name or path of a recipe, or a lock')
    .option('--update', 'fetch the metadata again, and ignore the lock beside the recipe')
    .option('--json', 'print the manifest of the image as JSON instead of its id')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln image build debian-build\n  kiln image build --update ./mine.yaml',
    )
    .action((name: string, options: BuildOptions) => build(name, options, caller));
  it.command('lock')
    .description(
      'Choose the packages for a recipe and write them to its lock; later builds use exactly these.',
    )
    .argument('<recipe>', 'the name or path of a recipe (.yaml)')
    .option('-o, --output <file>', 'write the lock to this file; by default beside the recipe')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln image lock mine.yaml\n  kiln image build mine.lock.json',
    )
    .action((name: string, options: { output?: string }) => lock(name, options, caller));
  it.command('ls')
    .description('List images, the most recently used first.')
    .option('--json', 'print one JSON array instead of a table')
    .addOption(formatOption())
    .addHelpText('after', '\nExamples:\n  kiln image ls\n  kiln image ls --json | jq -r ".[].id"')
    .action((options: ListOptions) => list(options, caller));
  it.command('show')
    .description('Show what an image is and what it is made of.')
    .argument('<image>', 'the id of an image, its first digits, or a name')
    .addHelpText('after', '\nExamples:\n  kiln image show debian-build | jq -r ".packages[].nevra"')
    .action((name: string) => show(name, caller));
  it.command('rm')
    .description('Remove images that are not in use.')
    .argument('<image...>', 'ids, their first digits, or names')
    .option('--packages', 'also remove unpacked packages that no image uses any more')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln image rm 3fa9c1d2\n  kiln image rm --packages debian-build',
    )
    .action((ids: string[], options: { packages?: boolean }) => remove(ids, options, caller));
  addTransferCommands(it, caller);
  it.command('schema')
    .description('Print the JSON Schema of image recipes.')
    .addHelpText('after', '\nExamples:\n  kiln image schema > image.schema.json')
    .action(async () => {
      const { imageRecipeJsonSchema } = await import('../../recipe/image-recipe.ts');
      printJson(caller.stdout, imageRecipeJsonSchema(), { indent: 2 });
    });
  return it;
}

async function build(name: string, options: BuildOptions, caller: Caller): Promise<void> {
  await using engine = caller.openEngine({ hurry: true });
  const named = await resolveImage(engine, name, engine.cwd());
  const started = Date.now();
  const image = await (async () => {
    using progress = imageProgress(caller.stderr);
    const wanted = { update: options.update === true, onProgress: progress.report };
    return named.kind === 'image'
      ? await openImage(engine, name, wanted)
      : await buildNamed(engine, named, wanted);
  })();
  await using leased = image;
  const { manifest } = leased;
  if (manifest.created >= started) caller.storeChanged();
  for (const warning of manifest.warnings) caller.stderr.say(`kiln: warning: ${warning}\n`);
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  caller.stderr.say(
    `kiln: ${manifest.name}: ${manifest.packageCount} packages, ${sizeText(manifest.bytes)}, ready after ${seconds} s\n`,
  );
  if (options.json === true) printJson(caller.stdout, manifest);
  else caller.stdout.say(`${manifest.id}\n`);
}

async function lock(name: string, options: { output?: string }, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const { file, warnings } = await (async () => {
    using progress = imageProgress(caller.stderr);
    const wanted = { output: options.output, onProgress: progress.report };
    return await lockRecipe(engine, name, wanted);
  })();
  for (const warning of warnings) caller.stderr.say(`kiln: warning: ${warning}\n`);
  caller.stdout.say(`${file}\n`);
}

/**
 * Solves a recipe and writes its lock, beside it unless `output` says otherwise.
 * @throws KilnError E_ARGUMENT, and what solving throws
 */
export async function lockRecipe(
  engine: Engine,
  name: string,
  {
    output,
    onProgress,
  }: { readonly output?: string | undefined; readonly onProgress: OnImageProgress },
): Promise<{ readonly file: string; readonly warnings: readonly string[] }> {
  const named = await resolveImage(engine, name, engine.cwd());
  if (named.kind !== 'recipe') {
    throw new KilnError('E_ARGUMENT', `${name} is not a recipe, and only recipes are locked`, {
      hint: 'give a recipe’s name, or the path of its .yaml file',
    });
  }
  const file = output ?? lockPathOf(named.path);
  await checkOutput(file);
  const plan = await planFromRecipe(engine, named.path, { update: true, onProgress });
  const { askedDigest, serializeImageLock } = await import('../../image/lock.ts');
  const asked = askedDigest(plan.recipe);
  const text = serializeImageLock(plan.settings, plan.lock, asked, plan.recipe.modules);
  try {
    writeUserFile(file, text);
  } catch (cause) {
    throw unwritable(file, cause);
  }
  return { file, warnings: plan.warnings };
}

/** Checked before solving, so that no time is lost on a file that cannot be written. */
async function checkOutput(file: string): Promise<void> {
  const folder = dirname(resolve(file));
  const [there, at] = await Promise.all([stat(folder), stat(file).catch(() => undefined)]).catch(
    (cause: unknown) => {
      throw unwritable(file, cause);
    },
  );
  if (!there.isDirectory()) throw unwritable(file, new Error(`${folder} is not a directory`));
  if (at?.isDirectory()) throw unwritable(file, new Error('it is a directory'));
}

function unwritable(file: string, cause: unknown): KilnError {
  return new KilnError('E_ARGUMENT', `cannot write ${file}`, {
    hint: 'name a file in a directory that is there and can be written: -o FILE',
    cause,
  });
}

async function list(options: ListOptions, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const images = await visibleImages(engine);
  if (options.json === true) {
    const iso = (time: number) => new Date(time).toISOString();
    const rows = images.map(({ manifest, lastUse, ...rest }) => ({
      ...{ ...manifest, ...rest, created: iso(manifest.created), lastUse: iso(lastUse) },
      ...(engine.owner === undefined ? { owners: ownersShown(engine, manifest) } : {}),
    }));
    printJson(caller.stdout, rows);
    return;
  }
  const owner: Columns<ListedImage> = [['OWNER', ({ manifest }) => ownerShown(engine, manifest)]];
  printRows(caller.stdout, [...COLUMNS, ...owner], images, options);
}

const COLUMNS: Columns<ListedImage> = [
  ['ID', ({ manifest }) => manifest.id.slice(0, 12)],
  ['NAME', ({ manifest }) => manifest.name],
  ['PACKAGES', ({ manifest }) => String(manifest.packageCount)],
  ['SIZE', ({ manifest }) => sizeText(manifest.bytes)],
  ['OWN', ({ manifest }) => sizeText(manifest.ownBytes)],
  ['CREATED', ({ manifest }) => minute(manifest.created)],
  ['LAST USE', ({ lastUse }) => minute(lastUse)],
  ['USE', ({ inUse }) => (inUse ? 'in use' : '')],
];

/** `2026-11-27 22:15`, in UTC. */
function minute(time: number): string {
  return new Date(time).toISOString().slice(0, 16).replace('T', ' ');
}

/** For root, who sees all: who calls an image what. */
function ownersShown({ paths }: ImagePlace, manifest: ListedImage['manifest']) {
  return [...ownersOf(paths, manifest)].map(([uid, owner]) => ({ uid, ...owner }));
}

/** Whose an image is, for the table. */
function ownerShown({ paths, owner }: ImagePlace, manifest: ListedImage['manifest']): string {
  const owners = ownersOf(paths, manifest);
  if (owner !== undefined) return owners.has(owner.uid) ? 'you' : 'root';
  const roots = owners.get(ROOT);
  if (roots !== undefined) return roots.private ? 'root, private' : 'root';
  return [...owners].map(([uid, { name }]) => `user ${uid}: ${name}`).join(', ');
}

async function show(name: string, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  // A recipe's name shows the image that it last became; nothing is built.
  const id = await findStoredImage(engine, name);
  const manifest = id === undefined ? undefined : readManifest(engine.paths, id);
  if (manifest === undefined) throw noImage(name);
  const { packages, exactReasons } = await readContents(engine.paths, manifest.id);
  const shown = nameFor(engine.paths, manifest, engine.owner) ?? manifest.name;
  printJson(caller.stdout, { ...manifest, name: shown, exactReasons, packages }, { indent: 2 });
}

async function remove(
  ids: string[],
  options: { readonly packages?: boolean },
  caller: Caller,
): Promise<void> {
  await using engine = caller.openEngine();
  const { paths } = engine;
  let freed = 0;
  for (const wanted of ids) {
    const id = await imageToRemove(engine, wanted);
    refuseOthers(engine, id);
    const own = readManifest(paths, id)?.ownBytes ?? 0;
    const tree = await removeImage(paths, id, engine.owner?.uid);
    caller.stdout.say(`${id}\n`);
    if (tree !== undefined) await removeTree(tree);
    freed += own;
  }
  // What is left in the store is root's to say, and to remove.
  if (engine.owner !== undefined) return;
  if (options.packages === true) freed += (await removeUnusedPackages(paths)).bytes;
  const left = await unusedPackages(paths);
  const rest =
    left.count === 0
      ? ''
      : `; ${left.count} packages that no image uses (${sizeText(left.bytes)}) are kept; --packages removes them`;
  caller.stderr.say(`kiln: freed ${sizeText(freed)}${rest}\n`);
}

function noImage(name: string): KilnError {
  return new KilnError('E_IMAGE_MISSING', `there is no image ${name}`, {
    hint: '`kiln image ls` lists them; `kiln image build` makes one',
  });
}

/** A user removes images of their own. @throws KilnError E_FORBIDDEN, E_IMAGE_MISSING */
function refuseOthers({ paths, owner }: ImagePlace, id: string): void {
  const manifest = readManifest(paths, id);
  if (owner === undefined || manifest === undefined) return;
  if (nameFor(paths, manifest, owner) === undefined) throw noImage(id);
  if (!ownersOf(paths, manifest).has(owner.uid))
    throw forbidden(`to remove the image ${id.slice(0, 12)}`, 'it is root’s');
}

/** An id, or the name of exactly one image: kiln never guesses what to delete. */
export async function imageToRemove(place: ImagePlace, wanted: string): Promise<string> {
  const id = await findImage(place, wanted);
  if (id !== undefined) return id;
  const named = await imagesNamed(place, wanted);
  if (named.length > 1) {
    throw new KilnError('E_IMAGE_AMBIGUOUS', `${named.length} images are called ${wanted}`, {
      hint: `give an id: ${named.map((manifest) => manifest.id.slice(0, 12)).join(', ')}`,
    });
  }
  return named[0]?.id ?? wanted;
}
