/** Names of images, and the end of those that nothing uses: `kiln image tag`, `kiln image prune`. */

import { counted } from '../../counted.ts';
import type { OwnEngine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { sizeText } from '../../host/calls/system-error.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { refuseRecipesName } from '../../image/archive/import.ts';
import { meantImage } from '../../image/find.ts';
import { refuseHostImage } from '../../image/host.ts';
import { type ListedImage, listImages, removeIdleImage } from '../../image/store/images.ts';
import { ownersOf, ROOT, readManifest } from '../../image/store/manifest.ts';
import { ownImage } from '../../image/store/names.ts';
import { flag } from '../../options/kind.ts';
import { age } from '../../options/numbers.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { quiet } from '../../options/sandbox.ts';
import { forbiddenError } from '../../users/configuration.ts';
import type { Caller } from '../caller/caller.ts';
import type { KilnCommand } from '../options/command.ts';
import { requireYes } from '../output/agree.ts';
import { imageName } from './image-transfer.ts';

const PRUNE = {
  force: row(flag, 'open', { help: 'ask nobody', short: 'f' }),
  older: row(age, 'open', {
    help: 'remove those that were not used for this time, such as 4w, and ask nobody',
  }),
  quiet,
};

export function addManageCommands(image: KilnCommand, caller: Caller): void {
  image
    .command('tag')
    .description('Give an image a further name; one that means another image means this one then.')
    .argument('<image>', 'the id of an image, its first digits, or a name')
    .argument('<name>', 'the name', (word: string) => imageName.read(word, caller))
    .examples('kiln image tag 3fa9c1d2 tools', 'kiln image tag alpine alpine-3.22')
    .action((word: string, name: string) => tag(word, name, caller));
  image
    .command('prune')
    .description(
      'Remove all images that are not in use, by a running command, a kept sandbox or a service; ask before.',
    )
    .rows(PRUNE)
    .examples('kiln image prune', 'kiln image prune --older 4w')
    .action((options: ValuesOf<typeof PRUNE>) => prune(options, caller));
}

/** @throws KilnError E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS, E_ARGUMENT, E_FORBIDDEN */
async function tag(word: string, name: string, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const { paths, owner } = engine;
  refuseRecipesName(paths, name);
  const id = await meantImage(engine, word, engine.cwd());
  const manifest = readManifest(paths, id);
  if (manifest === undefined) {
    throw new KilnError('E_IMAGE_MISSING', `there is no image ${word}`, {
      hint: '`kiln image ls` lists them',
    });
  }
  refuseHostImage(manifest, 'names');
  const uid = owner?.uid ?? ROOT;
  const known = ownersOf(paths, manifest).get(uid);
  if (known === undefined && owner !== undefined)
    throw forbiddenError(`a name for the image ${id.slice(0, 12)}`, 'it is root’s');
  const { private: isPrivate = true, from } = known ?? {};
  const own = { name, private: isPrivate, ...(from === undefined ? {} : { from }) };
  const before = await ownImage(paths, id, uid, own);
  const instead =
    before === undefined || before === id
      ? ''
      : `, which meant image ${before.slice(0, 12)} before`;
  caller.stderr.say(`kiln: image ${id.slice(0, 12)} is called ${name}${instead}\n`);
  caller.stdout.say(`${id}\n`);
}

/** What is not in use of the caller's own, but for the host's, which takes nothing. */
async function unused({ paths, owner }: OwnEngine, older: number): Promise<ListedImage[]> {
  const uid = owner?.uid ?? ROOT;
  const oldest = Date.now() - older;
  return (await listImages(paths)).filter(
    ({ manifest, inUse, lastUse }) =>
      !inUse &&
      lastUse <= oldest &&
      manifest.host === undefined &&
      ownersOf(paths, manifest).has(uid),
  );
}

async function prune(options: ValuesOf<typeof PRUNE>, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const { paths, owner } = engine;
  const uid = owner?.uid ?? ROOT;
  const images = await unused(engine, options.older ?? 0);
  const named = (one: ListedImage) => ownersOf(paths, one.manifest).get(uid)?.name ?? '';
  if (images.length > 0 && options.force !== true && options.older === undefined) {
    const names = images.map((one) => `${one.manifest.id.slice(0, 12)} ${named(one)}`);
    await requireYes(caller, {
      what: `${counted(images.length, 'image')} that nothing uses would be removed: ${names.join(', ')}`,
      ...{ verb: 'Remove', hint: 'answer at a terminal, or give --force, or --older TIME' },
    });
  }
  let [freed, count] = [0, 0];
  for (const one of images) {
    const { id, ownBytes } = one.manifest;
    // It may be in use by now, or an image of others' as well.
    const { gone, tree } = await removeIdleImage(paths, id, uid);
    if (!gone) continue;
    caller.stdout.say(`${id}\n`);
    count++;
    if (tree === undefined) continue;
    freed += ownBytes;
    await removeTree(tree);
  }
  caller.stderr.say(
    `kiln: removed ${counted(count, 'image')}, freed ${sizeText(freed)}; \`kiln gc\` removes packages that no image uses\n`,
  );
}
