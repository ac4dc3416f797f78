import { createWriteStream } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { KilnError } from '../errors.ts';
import type { Compression } from '../image/archive/export.ts';
import { hostArchitecture } from '../image/key.ts';
import { openImage } from '../image/open.ts';
import { hasErrno } from '../kernel/libc.ts';
import { callerMode } from '../kernel/own-umask.ts';
import type { Caller } from './caller.ts';
import { imageProgress } from './image-progress.ts';
import { printJson } from './print.ts';
import { parseSize } from './values.ts';

const EXPORT_EXAMPLES = `
A name that ends in .tar, .tar.gz or .tar.zst is a tar archive of the root directory, “-” the same
on stdout; any other is the folder of an OCI layout, which skopeo, podman and buildah read.

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
    .argument('<image>')
    .requiredOption('-o, --output <path>', 'the archive, the layout’s folder, or - for stdout')
    .addOption(
      new Option(
        '--compress <how>',
        'as the name of the output says, for a layout gzip, by default',
      ).choices(['none', 'gzip', 'zstd']),
    )
    .addHelpText('after', EXPORT_EXAMPLES)
    .action((name: string, options: ExportOptions) => exportImage(name, options, caller));
  image
    .command('import')
    .description('Make an image of an OCI layout, or of a tar archive (plain, gzip or zstd).')
    .argument('<path>')
    .option('--name <name>', 'what to call it')
    .option('--disk <size>', 'what it may unpack to; 16G unless given', parseSize)
    .option('--json', 'print its manifest')
    .addHelpText('after', IMPORT_EXAMPLES)
    .action((path: string, options: ImportOptions) => importPath(path, options, caller));
}

async function exportImage(name: string, options: ExportOptions, caller: Caller): Promise<void> {
  const { exportOci, exportTar } = await import('../image/archive/export.ts');
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
  // Nobody takes half an archive for a whole one.
  const temporary = `${output}.part`;
  try {
    // Not into what somebody put there: what is left of another export goes, a link as well.
    await rm(temporary, { force: true });
    const file = createWriteStream(temporary, { flags: 'wx', mode: callerMode(0o644) });
    warn(await exportTar(image, file, options.compress ?? byName), caller);
    await rename(temporary, output);
  } catch (cause) {
    await rm(temporary, { force: true });
    if (cause instanceof KilnError) throw cause;
    throw new KilnError('E_EXPORT', `cannot write ${output}`, { cause });
  }
}

function warn(skipped: readonly string[], caller: Caller): void {
  for (const path of skipped) {
    caller.stderr.say(`kiln: warning: /${path} is a device or a socket: left out\n`);
  }
}

async function importPath(path: string, options: ImportOptions, caller: Caller): Promise<void> {
  const { importImage } = await import('../image/archive/import.ts');
  await using engine = caller.openEngine();
  const started = Date.now();
  await using image = await importImage(engine.paths, path, {
    arch: hostArchitecture(),
    ...(options.name === undefined ? {} : { name: options.name }),
    ...(options.disk === undefined ? {} : { maxBytes: options.disk }),
  });
  const { manifest } = image;
  if (manifest.created >= started) caller.storeChanged();
  for (const warning of manifest.warnings) caller.stderr.say(`kiln: warning: ${warning}\n`);
  if (options.json === true) printJson(caller.stdout, manifest);
  else caller.stdout.say(`${manifest.id}\n`);
}
