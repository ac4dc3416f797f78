import { writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join, resolve } from 'node:path';
import type { Writable } from 'node:stream';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { readPatiently } from '../../host/files/user-file.ts';
import { hostArchitecture, withArchitecture } from '../../host/process/architecture.ts';
import { runTool } from '../../host/process/child-process.ts';
import { callerMode } from '../../host/process/own-umask.ts';
import type { Compression } from '../../image/archive/export.ts';
import { healthcheckIn, type OciHealthcheck, toOciArchitecture } from '../../image/archive/oci.ts';
import { imageNameOf, isImageName } from '../../image/find.ts';
import { refuseHostImage } from '../../image/host.ts';
import { openImage } from '../../image/open.ts';
import { isImageId } from '../../image/store/manifest.ts';
import { storageLeft } from '../../image/store/user-storage.ts';
import { flag, type Kind, needed, text } from '../../options/kind.ts';
import { size } from '../../options/numbers.ts';
import { opened } from '../../options/places.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { path, ROOTS } from '../../options/rules.ts';
import { allowHost, LIMITS, quiet } from '../../options/sandbox.ts';
import { architecture, choice } from '../../options/texts.ts';
import { lastName } from '../../users/caller-paths.ts';
import { JobFolder } from '../../users/job-folder.ts';
import { type Caller, listenForInterruption } from '../caller/caller.ts';
import { withSnapshot } from '../fork.ts';
import type { KilnCommand } from '../options/command.ts';
import { printSkipped, printWarning } from '../output/errors.ts';
import { printEither } from '../output/print.ts';
import { withProgress, withWork } from '../output/progress.ts';

const EXPORT_EXAMPLES = `
If the output ends in .tar, .tar.gz or .tar.zst, it is a tar archive of the root folder; “-” writes
that to stdout. Otherwise it is the folder of an OCI layout, which skopeo, podman and buildah read.

Examples:
  kiln image export debian-build -o debian-build.tar.zst
  kiln image export debian-build -o layout && skopeo inspect oci:layout
  kiln image export debian-build -o - | tar -tf - | less`;

const IMPORT_EXAMPLES = `
Examples:
  skopeo copy docker://registry.example/fedora:44 oci:fedora && kiln image import fedora
  xz -d rootfs.tar.xz && kiln image import rootfs.tar --name mine && kiln run -r mine -- id`;

const PULL_EXAMPLES = `
skopeo fetches it, with the registries, logins and policy that this host has set up for it. What is printed beside the
id names the image by its digest: the same bytes for ever.

Examples:
  kiln image pull docker://alpine:3.22 --name alpine && kiln run -r alpine -- cat /etc/os-release
  kiln image pull docker://alpine@sha256:DIGEST --name alpine
  kiln image pull --authfile ./auth.json docker://registry.example/tools:1
  kiln image pull oci:layout --digest sha256:DIGEST`;

export const imageName: Kind<string> = {
  term: 'name',
  read: (word) => {
    const how =
      'write up to 200 letters, digits and _.+@:~-, and no .yaml or .json at its end; 64 hexadecimal digits are an id.';
    return needed(isImageName(word) && !isImageId(word) ? word : undefined, how);
  },
};

const EXPORT = {
  output: row(opened<string>('path', path('result')), 'open', {
    help: 'write to this archive or folder, or to stdout with -',
    short: 'o',
    required: true,
  }),
  compress: row(choice('how', ['none', 'gzip', 'zstd']), 'open', {
    help: 'choose the compression; by default the name of the output decides, and a layout uses gzip',
  }),
  allowHost: allowHost(),
  quiet,
};

type ExportOptions = ValuesOf<typeof EXPORT>;

const IMPORT = {
  arch: row(architecture, 'open', {
    help: 'take what is for this architecture, and not for this machine’s',
  }),
  name: row(imageName, 'open', { help: 'give the image this name' }),
  disk: row(size, LIMITS.disk.users, { help: 'refuse to unpack more than this, 16G by default' }),
  json: row(flag, 'open', { help: 'print the manifest of the image as JSON instead of its id' }),
};

/** `from`: where it was, if not where it lies. */
type ImportOptions = ValuesOf<typeof IMPORT> & {
  readonly from?: string;
  readonly healthcheck?: OciHealthcheck;
};

const PULL = {
  authfile: row(opened<HeldPath>('file', path('content')), ROOTS, {
    help: 'log in to the registry as this file of skopeo’s or podman’s says (auth.json)',
  }),
  digest: row(text('digest'), ROOTS, { help: 'refuse any other content: sha256:…' }),
  ...IMPORT,
};

type PullOptions = ValuesOf<typeof PULL>;

export function addTransferCommands(image: KilnCommand, caller: Caller): void {
  image
    .command('export')
    .description('Write an image as a tar archive or an OCI layout.')
    .argument('<image>', 'the name or path of a recipe, a lock, or the id of an image')
    .rows(EXPORT)
    .addHelpText('after', EXPORT_EXAMPLES)
    .action((name: string, options: ExportOptions) => exportImage(name, options, caller));
  image
    .command('pull')
    .description('Make an image from one of a registry, or of a file, that skopeo can read.')
    .argument(
      '<uri>',
      'where it is: docker://HOST/NAME[:TAG] or @sha256:DIGEST, oci:DIR, dir:DIR, docker-archive:FILE',
    )
    .rows(PULL)
    .addHelpText('after', PULL_EXAMPLES)
    .action((reference: string, options: PullOptions) => pullImage(reference, options, caller));
  image
    .command('import')
    .description('Make an image from an OCI layout or a tar archive (plain, gzip or zstd).')
    .argument('<path>', 'the folder of an OCI layout, or a tar archive')
    .rows(IMPORT)
    .addHelpText('after', IMPORT_EXAMPLES)
    .action((path: string, options: ImportOptions) => importPath(path, options, caller));
  image
    .command('commit')
    .description(
      'Make an image of a snapshot, or of what a kept sandbox has written, with all that it stands on. Its user, environment and folder are those of the image below.',
    )
    .argument('<origin>', 'a snapshot, by its name or id, or the id of a kept sandbox')
    .rows(COMMIT)
    .examples('kiln image commit built --name tools && kiln run -r tools -- true')
    .action((word: string, options: ValuesOf<typeof COMMIT>) => commit(word, options, caller));
}

export const COMMIT = {
  name: { ...IMPORT.name, required: true },
  json: IMPORT.json,
} as const;

async function commit(
  word: string,
  { name, json }: ValuesOf<typeof COMMIT>,
  caller: Caller,
): Promise<void> {
  using interruption = listenForInterruption(caller);
  await using engine = caller.openEngine();
  const { signal } = interruption;
  const { commitSnapshot, requireCommit } = await import('../../snapshot/commit.ts');
  const check = (below: string | undefined) => requireCommit(engine.paths, below, name);
  await using image = await withWork(caller, () =>
    withSnapshot(engine, word, { signal, check }, (snapshot) =>
      commitSnapshot(engine, snapshot, name, signal),
    ),
  );
  caller.storeChanged();
  printSkipped(image.skipped, caller);
  for (const message of image.manifest.warnings)
    printWarning({ code: 'image', message }, caller.stderr);
  printEither(caller.stdout, { json }, image.manifest, () => image.manifest.id);
}

/** Transports of skopeo's (containers-transports(5)) that need nothing of this host's own storage. */
const TRANSPORT = /^(?:docker:\/\/|oci:|dir:|docker-archive:|oci-archive:)/;
const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** @throws KilnError E_ARGUMENT, E_PULL, E_DIGEST, and what an import throws */
async function pullImage(reference: string, options: PullOptions, caller: Caller): Promise<void> {
  const { digest: wanted } = options;
  if (!TRANSPORT.test(reference)) {
    throw new KilnError('E_ARGUMENT', `${reference} does not say where the image is`, {
      hint: `write docker://${reference} for one of a registry; oci:, dir:, docker-archive: and oci-archive: are files`,
    });
  }
  await using engine = caller.openEngine();
  const { arch } = options;
  const name = options.name ?? withArchitecture(nameOfReference(reference), arch);
  const { refuseRecipesName } = await import('../../image/archive/import.ts');
  refuseRecipesName(engine.paths, name);
  await using work = await JobFolder.make(engine.paths);
  const login = await loginOf(options.authfile, work, caller);
  const platform = arch === undefined ? [] : ['--override-arch', toOciArchitecture(arch)];
  const skopeo = (command: string, ...words: readonly string[]) =>
    runSkopeo([command, ...login, '--override-os', 'linux', ...platform, ...words]);
  const { stdout } = await skopeo('inspect', '--no-tags', '--format', '{{.Digest}}', reference);
  const digest = stdout.trim();
  if (!DIGEST.test(digest))
    throw new KilnError('E_PULL', `${reference}: skopeo reported no digest`);
  if (wanted !== undefined && wanted !== digest) {
    throw new KilnError('E_DIGEST', `${reference} has the digest ${digest}, not ${wanted}`, {
      hint: 'it was changed where it lies; name the digest only once you trust the new one',
    });
  }
  const pinned = pinnedReference(reference, digest);
  const layout = join(work.path, 'layout');
  await skopeo('copy', '--quiet', pinned, `oci:${layout}:latest`);
  // A layout has no place for it, so skopeo leaves it out.
  const own = await skopeo('inspect', '--config', '--raw', pinned);
  const healthcheck = healthcheckIn(own.stdout);
  await importPath(
    layout,
    { ...options, name, from: reference, ...defined({ healthcheck }) },
    caller,
  );
  caller.stderr.say(`kiln: pulled ${pinned}${pinned === reference ? ` (${digest})` : ''}\n`);
}

/** A registry gives, by its digest, the bytes that were looked at; another place has one image. */
function pinnedReference(reference: string, digest: string): string {
  if (!reference.startsWith('docker://') || reference.includes('@')) return reference;
  return `${reference.replace(/:[^:/]*$/, '')}@${digest}`;
}

/** `alpine` of docker://alpine:3.22, `tools` of oci:tools:latest */
function nameOfReference(reference: string): string {
  const place = reference.replace(TRANSPORT, '').replace(/@.*$|:[^:/]*$/, '');
  const [name = ''] = /[\w.-]+$/.exec(place) ?? [];
  return imageNameOf(name.replace(/^[.-]+/, ''));
}

/** Bytes of a file of logins. */
const LOGINS_MAX = 1 << 20;

/** The file as the caller's own process has opened it, in a copy: skopeo opens files by name. */
async function loginOf(
  authfile: HeldPath | undefined,
  work: JobFolder,
  { paths }: Caller,
): Promise<readonly string[]> {
  if (authfile === undefined) return [];
  const content = await readPatiently(authfile, LOGINS_MAX, undefined).catch((cause: unknown) => {
    throw new KilnError('E_PULL', `--authfile: ${paths.renamed(authfile)} cannot be read`, {
      hint: 'name a file that `skopeo login --authfile FILE HOST` has written',
      cause,
    });
  });
  const copy = join(work.path, 'auth.json');
  writeFileSync(copy, content, { mode: 0o600, flag: 'wx' });
  return ['--authfile', copy];
}

async function runSkopeo(args: readonly string[]): Promise<{ readonly stdout: string }> {
  const { stdout, stderr, failure } = await runTool('skopeo', args);
  if (failure === undefined) return { stdout };
  if (failure === 'skopeo is not installed') {
    throw new KilnError('E_PULL', failure, {
      hint: 'install it: apt-get install skopeo (Debian, Ubuntu), dnf install skopeo (Fedora) or zypper install skopeo',
    });
  }
  throw new KilnError('E_PULL', `skopeo: ${stderr.trim().slice(-1000) || failure}`, {
    hint: 'is the image there? `skopeo inspect` with the same name tells more; `skopeo login` logs in, and --authfile names a login of your own',
  });
}

/** Endings of archives that kiln does not write: such a name is not meant for a folder. */
const OTHER_ARCHIVE = /\.(?:zip|7z|t[gbxz]z2?|tzst|tar\.[^./]+)$/;

async function exportImage(name: string, options: ExportOptions, caller: Caller): Promise<void> {
  const { output } = options;
  const named = /\.tar(?:\.(gz|zst))?$/.exec(output);
  if (named === null && OTHER_ARCHIVE.test(output)) {
    throw new KilnError(
      'E_ARGUMENT',
      `${output} is called like an archive that kiln cannot write`,
      {
        hint: 'it writes .tar, .tar.gz and .tar.zst, and otherwise the folder of an OCI layout',
      },
    );
  }
  const { exportOci, exportTar, writeWhole } = await import('../../image/archive/export.ts');
  // Before an image is made, which may take long and runs what its packages bring.
  const isArchive = output === '-' || named !== null;
  // Nobody else looks into a user's folder, whether there is something in it: it has a name of its own at least.
  if (caller.user !== undefined && output !== '-') lastName(output);
  const folder = isArchive ? undefined : await caller.paths.results(output);
  const file = named === null ? undefined : await caller.paths.resultAt(output);
  await using engine = caller.openEngine({ allowHost: options.allowHost });
  await using image = await withProgress(caller, (onProgress) =>
    openImage(engine, name, { onProgress }),
  );
  refuseHostImage(image.manifest, 'exports');
  if (output === '-') {
    caller.isOutputAll = true;
    try {
      printSkipped(
        await exportTar(image, caller.stdout.stream, options.compress ?? 'none'),
        caller,
      );
    } catch (error) {
      if (!hasErrno(error, 'EPIPE')) throw error;
      // Quietly, as SIGPIPE ends a program: a reader that has seen enough (`| head`) knows.
      caller.exitStatus = 128 + constants.signals.SIGPIPE;
    }
    return;
  }
  if (folder !== undefined)
    printSkipped(await exportOci(image, folder, options.compress ?? 'gzip'), caller);
  if (named === null || file === undefined) return;
  const byName: Compression = named[1] === 'gz' ? 'gzip' : named[1] === 'zst' ? 'zstd' : 'none';
  const how = options.compress ?? byName;
  const write = (stream: Writable) => exportTar(image, stream, how);
  printSkipped(await writeWhole(file, callerMode(0o644), write), caller);
}

async function importPath(path: string, options: ImportOptions, caller: Caller): Promise<void> {
  const { importImage } = await import('../../image/archive/import.ts');
  await using engine = caller.openEngine();
  const { paths, owner } = engine;
  const most = options.disk ?? owner?.share.disk;
  const maxBytes = owner && Math.min(most ?? 0, await storageLeft(paths, owner));
  const wanted = {
    arch: options.arch ?? hostArchitecture(),
    from: options.from ?? owner?.files?.nameOf(path) ?? resolve(caller.cwd(), path),
    ...defined({ name: options.name, maxBytes: maxBytes ?? most }),
    ...defined({ healthcheck: options.healthcheck }),
    uid: owner?.uid,
  };
  const started = Date.now();
  await using image = await importImage(engine.paths, path, wanted);
  const { manifest, before } = image;
  if (manifest.created >= started) caller.storeChanged();
  const instead = before === undefined ? '' : `, which meant image ${before.slice(0, 12)} before`;
  caller.stderr.say(
    `kiln: image ${manifest.id.slice(0, 12)} is called ${manifest.name}${instead}\n`,
  );
  for (const message of manifest.warnings) printWarning({ code: 'image', message }, caller.stderr);
  printEither(caller.stdout, options, manifest, () => manifest.id);
}
