/** The kernel of machines that an image's own packages bring: found when the image is made, by names in its tree. */
import { constants, fstatSync, openSync, readdirSync } from 'node:fs';
import { z } from 'zod';
import { KilnError } from '../../../errors.ts';
import { closing } from '../../../host/calls/descriptor.ts';
import { askConfined } from '../../../host/confine/run.ts';
import { openInTree } from '../../../host/files/at.ts';
import { heldPath } from '../../../host/files/held.ts';
import type { GuestKernel, PackedModule } from '../../policy/guest-kernel.ts';
import { IMAGE_MAX, MODULE_MAX, placed } from './kernel.ts';

const MODULES = 'usr/lib/modules';
const RELEASE = /^[\w.+~-]{1,128}$/;

/** More is no list of modules. Bytes. */
const LIST_MAX = 16 << 20;
/** Of one of the two kinds: what machines need has some ten. */
const MODULES_MAX = 24;

const modulePaths = z
  .array(z.string().regex(/^(?!.*(?:^|\/)\.\.?(?:\/|$))\w[\w./+~-]{0,255}$/))
  .max(MODULES_MAX);

const foundSchema = z.strictObject({
  release: z.string().regex(RELEASE).nullable(),
  lacking: z.array(z.string().max(32)).max(16),
  modules: modulePaths,
  imageModules: modulePaths,
});

/** The newest in a tree whose root is open here. @throws KilnError E_MACHINE_KERNEL */
export async function findImageKernel(root: number): Promise<GuestKernel> {
  using opened = new DisposableStack();
  const [newest] = releasesIn(root).flatMap((release) => {
    const images = [`${MODULES}/${release}/vmlinuz`, `boot/vmlinuz-${release}`];
    const image = images.find((path) => isFile(root, path, IMAGE_MAX));
    return image === undefined ? [] : [{ release, image }];
  });
  if (newest === undefined)
    throw refused('its packages bring none', 'add kernel-core of Fedora to `packages`');
  const { release, image } = newest;
  const lists = ['modules.builtin', 'modules.dep'].map((name) => `${MODULES}/${release}/${name}`);
  const without = lists.find((path) => !isFile(root, path, LIST_MAX));
  if (without !== undefined)
    throw refused(
      `${release} has no /${without}`,
      'depmod makes it, in a scriptlet of the kernel: add kmod to `packages`, and leave out `scriptlets: none`',
    );
  const fds = [image, ...lists].map((path) => opened.use(openFile(root, path)!).fd);
  const { lacking, ...found } = await askConfined({
    ...{ task: 'machine-kernel', input: undefined, fds },
    validate: (value) => foundSchema.parse(value),
  });
  if (found.release !== release)
    throw refused(
      found.release === null
        ? `/${image} is no bzImage for x86`
        : `/${image} is of the version ${found.release}`,
      'add the kernel of one package, with its modules',
    );
  if (lacking.length > 0)
    throw refused(
      `${release} lacks ${lacking.join(', ')}`,
      'add kernel-modules-core, or what else brings them, to `packages`',
    );
  const folder = `${MODULES}/${release}`;
  const paths = placed(found, (path) => `${folder}/${path}`);
  return { ...paths, release, image };
}

/** What is there once more, held open until it is disposed of. @throws KilnError E_MACHINE_KERNEL */
export function openImageKernel(tree: string, kernel: GuestKernel): GuestKernel & Disposable {
  using opened = new DisposableStack();
  const root = opened.use(closing(openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY))).fd;
  const open = (path: string, most: number) => {
    if (isFile(root, path, most)) return heldPath(opened.use(openFile(root, path)!).fd);
    throw refused(
      `/${path} is not there any more`,
      'remove the image with `kiln image rm`, and build it again',
    );
  };
  const places = ({ name, path }: PackedModule) => ({
    name,
    path: open(path, MODULE_MAX),
  });
  const held = {
    release: kernel.release,
    image: open(kernel.image, IMAGE_MAX),
    modules: kernel.modules.map(places),
    imageModules: kernel.imageModules.map(places),
  };
  const all = opened.move();
  return { ...held, [Symbol.dispose]: () => all.dispose() };
}

function refused(why: string, hint: string): KilnError {
  return new KilnError(
    'E_MACHINE_KERNEL',
    `the image has no kernel that a machine can boot: ${why}`,
    { hint },
  );
}

/** The newest first. */
function releasesIn(root: number): string[] {
  using folder = openInTree(root, MODULES, constants.O_RDONLY | constants.O_DIRECTORY);
  const names = folder === undefined ? [] : readdirSync(heldPath(folder.fd));
  return names
    .filter((name) => RELEASE.test(name))
    .toSorted((a, b) => b.localeCompare(a, 'en', { numeric: true }));
}

function openFile(root: number, path: string) {
  return openInTree(root, path, constants.O_RDONLY | constants.O_NOCTTY);
}

function isFile(root: number, path: string, most: number): boolean {
  using file = openFile(root, path);
  if (file === undefined) return false;
  const stat = fstatSync(file.fd);
  return stat.isFile() && stat.size <= most;
}
