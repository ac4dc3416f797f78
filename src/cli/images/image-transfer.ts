import { createWriteStream } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { callerMode } from '../../host/process/own-umask.ts';
import type { Compression } from '../../image/archive/export.ts';
import { hostArchitecture } from '../../image/key.ts';
import { openImage } from '../../image/open.ts';
import type { Caller } from '../caller/caller.ts';
import { parseSize } from '../options/values.ts';
import { printJson } from '../output/print.ts';
import { imageProgress } from './image-progress.ts';

const EXPORT_EXAMPLES = `
If the output ends in .tar, .tar.gz or .tar.zst, it is a tar archive of the root directory; “-” writes
that to stdout. Otherwise it is the folder of an OCI layout, which skopeo, podman and buildah read.

Examples:
  kiln image export debian-build -o debian-build.tar.zst
  kiln image export debian-build -o layout && skopeo inspect oci:layout
  kiln image export debian-build -o - | tar -tf - | less`;

const IMPORT_EXAMPLES = `
Examples:
  skopeo copy docker://registry.example/fedora:44 oci:fedora && kiln image import fedora
  xz -d rootfs.tar.xz && kiln image import rootfs.tar --name mine && kiln run -r mine -- id`;

interface ExportOptions {
  readonly output: string;
  readonly compress?: Compression;
}

interface ImportOptions {
  readonly name?: string;
  readonly json?: boolean;
  readonly disk?: number;
}

/** Adds `export` and `import` to `kiln image`. */
export function addTransferCommands(image: Command, caller: Caller): void {
  image
    .command('export')
    .description('Write an image as a tar archive or an OCI layout.')
    .argument('<image>', 'the name or path of a recipe, a lock, or the id of an image')
    .requiredOption('-o, --output <path>', 'write to this archive or folder, or to stdout with -')
    .addOption(
      new Option(
        '--compress <how>',
        'choose the compression; by default the name of the output decides, and a layout uses gzip',
      ).choices(['none', 'gzip', 'zstd']),
    )
    .addHelpText('after', EXPORT_EXAMPLES)
    .action((name: string, options: ExportOptions) => exportImage(name, options, caller));
  image
    .command('import')
    .description('Make an image from an OCI layout or a tar archive (plain, gzip or zstd).')
    .argument('<path>', 'the folder of an OCI layout, or a tar archive')
    .option('--name <name>', 'give the image this name')
    .option('--disk <size>', 'refuse to unpack more than this, 16G by default', parseSize)
    .option('--json', 'print the manifest of the image as JSON instead of its id')
    .addHelpText('after', IMPORT_EXAMPLES)
    .action((path: string, options: ImportOptions) => importPath(path, options, caller));
}

async function exportImage(name: string, options: ExportOptions, caller: Caller): Promise<void> {
  const { exportOci, exportTar } = await import('../../image/archive/export.ts');
  await using engine = caller.openEngine();
  const progress = imageProgress(caller.stderr);
  await using image = await openImage(engine, name, { onProgress: progress.report });
  progress[Symbol.dispose]();
  const { output } = options;
  const named = /\.tar(?:\.(gz|zst))?$/.exec(output);
  if (output === '-') {
    try {
      warn(await exportTar(image, caller.stdout.stream, options.compress ?? 'none'), caller);
    } catch (error) {
      // A reader that has seen enough (`| head`) is no failure.
      if (!hasErrno(error, 'EPIPE')) throw error;
    }
    return;
  }
  if (named === null) {
    warn(await exportOci(image, output, options.compress ?? 'gzip'), caller);
    return;
  }
  const byName: Compression = named[1] === 'gz' ? 'gzip' : named[1] === 'zst' ? 'zstd' : 'none';
  // A temporary name, so that nobody takes an unfinished archive for a complete one.
  const temporary = `${output}.part`;
  try {
    // Remove what another export left, or a link that somebody put there: never write into it.
    await rm(temporary, { force: true });
    const file = createWriteStream(temporary, { flags: 'wx', mode: callerMode(0o644) });
    warn(await exportTar(image, file, options.compress ?? byName), caller);
    await rename(temporary, output);
  } catch (cause) {
    await rm(temporary, { force: true });
    if (cause instanceof KilnError) throw cause;
    throw new KilnError('E_EXPORT', `cannot write ${output}`, {
      cause,
      hint: 'name a file in a folder that exists and can be written',
    });
  }
}

function warn(skipped: readonly string[], caller: Caller): void {
  for (const path of skipped) {
    caller.stderr.say(`kiln: warning: /${path} is a device or a socket: left out\n`);
  }
}

async function importPath(path: string, options: ImportOptions, caller: Caller): Promise<void> {
  const { importImage } = await import('../../image/archive/import.ts');
  await using engine = caller.openEngine();
  const started = Date.now();
  const disk = options.disk ?? engine.owner?.share.disk;
  await using image = await importImage(engine.paths, path, {
    arch: hostArchitecture(),
    ...defined({ name: options.name, maxBytes: disk }),
    uid: engine.owner?.uid,
  });
  const { manifest } = image;
  if (manifest.created >= started) caller.storeChanged();
  for (const warning of manifest.warnings) caller.stderr.say(`kiln: warning: ${warning}\n`);
  if (options.json === true) printJson(caller.stdout, manifest);
  else caller.stdout.say(`${manifest.id}\n`);
}
