/**
 * File systems in files that a caller names. Such a file is a stranger's, so the host's kernel never mounts it. A
 * machine's kernel does, for it is the sandbox's own. For a container a program of this host unpacks it in a sandbox of
 * its own, onto a bounded disk of kiln's, which the caller's sandbox gets.
 */

import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { defined } from '../../defined.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { untold } from '../../events/action.ts';
import { closeDescriptor } from '../../host/calls/descriptor.ts';
import { type AttachedLoop, attachLoop } from '../../host/files/mount.ts';
import { runProgram } from '../../host/process/child-process.ts';
import { currentHost, makeHost, requireHost } from '../../image/host.ts';
import { type LeasedImage, leaseImage } from '../../image/store/images.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import { usualValues, valuesIn } from '../../options/row.ts';
import { SANDBOX, SANDBOX_LIMITS } from '../../options/sandbox.ts';
import { DEFAULT_DISK, type PlannedVolume } from '../../sandbox/door/plan.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import { can } from '../../sandbox/policy/ground-kinds.ts';
import type { Bind } from '../../sandbox/policy/specification.ts';
import { planRun } from './plan.ts';
import type { RunRequest } from './request.ts';

/** What a file system is, and who reads it. Magic numbers: linux/magic.h, and the file systems' own headers. */
const SCRIPT = `
PATH=/usr/sbin:/usr/bin:/sbin:/bin
rmdir /out/lost+found
at() { dd if=/file bs=1 skip=$1 count=$2 2>/dev/null | od -An -v -tx1 | tr -d ' \\n'; }
has() { command -v $1 >/dev/null || { echo $1; exit 81; }; }
head -c 1 /file >/dev/null || exit 82
case $(at 0 4) in
68737173) has unsquashfs; unsquashfs -q -n -no-xattrs -f -d /out /file; s=$?; [ $s = 2 ] && s=0; exit $s;;
58465342) echo xfs; exit 83;;
esac
case $(at 1024 4) in e2e1f5e0) has fsck.erofs; fsck.erofs --extract=/out --overwrite --preserve /file; exit;; esac
case $(at 1080 2) in 53ef) has debugfs; debugfs -R 'rdump / /out' /file; exit;; esac
exit 84`;

const PACKAGES: ReadonlyMap<string, string> = new Map([
  ['unsquashfs', 'squashfs-tools'],
  ['fsck.erofs', 'erofs-utils'],
  ['debugfs', 'e2fsprogs'],
]);

/** Unpacking takes no longer, ms, unless the command may. */
const PATIENCE = 600_000;

/** What a request says of files with file systems. */
type DiskRequest = Pick<RunRequest, 'binds' | 'isolation' | 'caller' | 'disk'> &
  Partial<Pick<RunRequest, keyof typeof SANDBOX_LIMITS | 'timeout'>>;

interface Disks extends AsyncDisposable {
  readonly volumes: readonly PlannedVolume[];
}

/**
 * The disks for binds with `image`. They are there as long as a sandbox has them, and this is not disposed of.
 * @throws KilnError E_BIND, the signal's reason, and what a sandbox throws
 */
export async function unpackDisks(
  engine: Engine,
  request: DiskRequest,
  signal?: AbortSignal | undefined,
): Promise<Disks> {
  const isMounted = can(request.isolation, 'mountsImages');
  const wanted = request.binds.filter(({ image }) => image === true && !isMounted);
  await using stack = new AsyncDisposableStack();
  const volumes: PlannedVolume[] = [];
  if (wanted.length > 0) {
    const work = stack.use(await openWorkDirectory(engine.paths));
    const host = stack.use(await hostImage(engine));
    const most = engine.owner?.share.disk ?? Number.POSITIVE_INFINITY;
    // All together hold what one file system of the sandbox may.
    const bytes = Math.floor(Math.min(request.disk ?? DEFAULT_DISK, most) / wanted.length);
    for (const [nth, bind] of wanted.entries()) {
      const { name, device } = await emptyDisk(join(work.path, `disk-${nth}`), bytes);
      stack.defer(() => closeDescriptor(device));
      await untold(() => unpack(engine, host, { bind, device: name, request, signal }));
      volumes.push({ source: { device: name }, target: bind.target, readonly: true });
    }
  }
  const kept = stack.move();
  return { volumes, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

async function hostImage({ paths, owner }: Engine): Promise<LeasedImage> {
  // What takes over the program that unpacks reads what the image has.
  requireHost(owner);
  const id = currentHost(paths);
  return (id && (await leaseImage(paths, id))) || (await makeHost(paths));
}

/** The file of it goes with the folder, and its bytes with the last who has it mounted. */
async function emptyDisk(path: string, bytes: number): Promise<AttachedLoop> {
  await using file = await open(path, 'wx', 0o600);
  await file.truncate(bytes);
  // What is on it can be had again, so it needs no journal.
  const options = ['-q', '-F', '-t', 'ext4', '-m', '0', '-O', '^has_journal'];
  await runProgram('mke2fs', [...options, path], { works: true });
  return attachLoop(path);
}

interface Unpacking {
  readonly bind: Bind;
  readonly device: string;
  readonly request: DiskRequest;
  readonly signal: AbortSignal | undefined;
}

async function unpack(
  engine: Engine,
  host: LeasedImage,
  { bind, device, request, signal }: Unpacking,
): Promise<void> {
  const { image: _image, ...file } = bind;
  const { caller, disk, timeout = PATIENCE } = request;
  const asked: RunRequest = {
    ...{ ...usualValues(SANDBOX), ...valuesIn(SANDBOX_LIMITS, request), image: host.manifest.id },
    ...{ argv: ['/bin/sh', '-c', SCRIPT], workdir: '/', user: 'root', caller, timeout },
    ...defined({ disk }),
    binds: [{ ...file, target: '/file', readonly: true }],
  };
  const plan = planRun(engine, asked, host, { volumes: [{ source: { device }, target: '/out' }] });
  await using sandbox = await PlannedSandbox.open(engine, plan, { signal });
  const command = { ...plan.command, disks: ['/out'] };
  const { exitCode, limitHit, output } = await sandbox.execute(command, { signal });
  const said = output.lines().at(-1) ?? '';
  if (exitCode === 0 && limitHit === null) return;
  const fail = (why: string, hint: string) =>
    new KilnError('E_BIND', `${bind.source} cannot be mounted: ${why}`, { hint });
  // A program may have removed again what there was no room for.
  const isFull = limitHit === 'disk' || /No space left on device/.test(output.text());
  if (isFull) throw fail('it has more in it than --disk allows', 'give more: --disk');
  if (limitHit !== null) throw fail(`unpacking it reached the limit ${limitHit}`, 'give it more');
  if (exitCode === 81) {
    const hint = `install ${PACKAGES.get(said) ?? said}, which has it: the kernel never reads such a file`;
    throw fail(`this host has no ${said}`, hint);
  }
  if (exitCode === 82) throw fail('you may not read it', 'its mode and owner say who may');
  if (exitCode === 83)
    throw fail(
      'no program reads xfs but a kernel, and the host’s is not asked',
      'a machine’s own kernel reads it: --isolation vm',
    );
  if (exitCode === 84)
    throw fail('it is no squashfs, erofs or ext4', 'a whole disk with partitions is none either');
  throw fail(`unpacking it failed: ${said}`, 'it may be damaged');
}
