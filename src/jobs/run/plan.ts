import { some } from '../../defined.ts';
import { checkEgress, PUBLIC_HOSTS } from '../../egress/rule.ts';
import { KilnError } from '../../errors.ts';
import { readPatiently } from '../../host/files/user-file.ts';
import { runsItself } from '../../host/process/architecture.ts';
import { sayLater } from '../../host/process/wait-for.ts';
import { type NamingPlace, resolveImage } from '../../image/find.ts';
import type { ImageManifest } from '../../image/store/manifest.ts';
import type { SandboxOptions } from '../../options/sandbox.ts';
import { allEnds } from '../../promise.ts';
import { type Plan, planCommand, type TakenImage } from '../../sandbox/door/plan.ts';
import { timeOf } from '../../sandbox/door/supervise.ts';
import { can, requireAbility } from '../../sandbox/policy/ground-kinds.ts';
import type { OptionalLayer } from '../../sandbox/policy/layers.ts';
import { limitsOf } from '../../sandbox/policy/limits.ts';
import { PROTECTED } from '../../sandbox/policy/protected.ts';
import type { Secret } from '../../sandbox/policy/specification.ts';
import { shellWord } from '../../shell-words.ts';
import type { RunRequest } from './request.ts';

/** What an engine knows of layers that may be missing. */
export interface CallersLayers {
  allowMissing(): readonly OptionalLayer[];
}

export function planRun(
  engine: CallersLayers,
  request: RunRequest,
  image: TakenImage & { readonly manifest: ImageManifest },
  {
    learnsEgress = false,
    volumes = [],
  }: {
    readonly learnsEgress?: boolean | undefined;
    readonly volumes?: Plan['sandbox']['volumes'];
  } = {},
): Plan {
  const { argv, env, capabilities, caller, tmpfs, guestBinds, hostname, disk } = request;
  const { isolation, kernel, profile, onDisk, network, publish } = request;
  // Those are `volumes` of a container; a machine's own kernel mounts them.
  const mounts = can(isolation, 'mountsImages');
  const binds = request.binds.filter(({ image: isDisk }) => mounts || isDisk !== true);
  const egress = learnsEgress ? [...request.egress, PUBLIC_HOSTS] : some(request.egress);
  refuseImpossible(request, image);
  const named = learnsEgress ? request.egress : egress;
  checkEgress({ egress: named, network, seccomp: request.seccomp });
  const nested = profile === 'nested';
  return planCommand(
    {
      ...{
        argv,
        env,
        capabilities,
        caller,
        binds,
        tmpfs,
        guestBinds,
        hostname,
        disk,
        isolation,
        kernel,
        nested,
        upperOnDisk: onDisk,
      },
      workdir: request.workdir || undefined,
      user: request.user || undefined,
      // `--profile nested` brings a filter of its own.
      seccomp: nested && request.seccomp === 'default' ? profile : request.seccomp,
      ...{ network, egress, publish },
      limits: limitsOf(request),
      time: timeOf(request),
      label: request.label ?? { kind: 'auto' },
      allowMissing: some(request.allowMissing) ?? engine.allowMissing(),
      allowHostWrite: request.allowHostWrite === true,
      readonlyRoot: request.readOnly === true,
      protectedPaths: [...(request.protection ? PROTECTED : []), ...request.protect],
      ...{ volumes, privateTmp: true, namespaces: 0, boot: false },
    },
    image,
  );
}

/** @throws KilnError E_MACHINE */
function refuseImpossible(
  { isolation, label }: SandboxOptions,
  { manifest: { arch } }: TakenImage,
): void {
  if ((label?.kind ?? 'auto') !== 'auto') requireAbility(isolation, 'chosenLabel');
  if (!runsItself(arch)) requireAbility(isolation, 'otherProcessor', arch);
}

/** Bytes of one secret: a key or a token, not a data set. */
const SECRET_MAX = 64 << 10;

/**
 * Reads secrets, whose content is in no argument, log or file of kiln's.
 * @throws KilnError E_SECRET, the signal's reason
 */
export async function readSecrets(
  wanted: RunRequest['secrets'],
  signal: AbortSignal | undefined,
): Promise<Secret[]> {
  return await allEnds(
    wanted.map(async ({ name, file }) => ({ name, content: await readSecret(name, file, signal) })),
  );
}

async function readSecret(name: string, file: string, signal?: AbortSignal): Promise<Buffer> {
  using _said = sayLater({ name: `the secret ${name}` }, 'a pipe into which nobody writes');
  try {
    return await readPatiently(file, SECRET_MAX, signal);
  } catch (cause) {
    signal?.throwIfAborted();
    throw new KilnError('E_SECRET', `the secret ${name} cannot be read`, {
      cause,
      hint: `write it as --secret NAME=FILE, of ${SECRET_MAX} bytes at most; bind a bigger file read-only: --bind FILE:/path:ro`,
    });
  }
}

/**
 * Words take the place of CMD and follow ENTRYPOINT. One that is given takes the place of both, and an empty one leaves
 * ENTRYPOINT out.
 * @param given a word, or a JSON array of words
 * @throws KilnError E_ARGUMENT where neither says what to run
 */
export function wholeCommand(
  image: ImageManifest,
  words: readonly string[],
  given: string | undefined,
): Pick<RunRequest, 'argv' | 'entrypoint'> {
  const { entrypoint = [], command = [] } = image;
  const before = given === undefined ? entrypoint : given === '' ? [] : wordsOf(given);
  const usual = given === undefined || given === '' ? command : [];
  const argv = [...before, ...(words.length > 0 ? words : usual)];
  if (!argv[0]) throw noCommandError(image.name);
  return entrypoint.length === 0 ? { argv } : { argv, entrypoint: '' };
}

function wordsOf(given: string): readonly string[] {
  if (!given.startsWith('[')) return [given];
  try {
    const words: unknown = JSON.parse(given);
    if (Array.isArray(words) && words.every((word) => typeof word === 'string')) return words;
  } catch {
    // It is said below.
  }
  throw new KilnError('E_ARGUMENT', `--entrypoint ${given} is no JSON array of words`, {
    hint: `write one word, or several as --entrypoint '["sh", "-c"]'`,
  });
}

/** Before an image is made that says nothing of the kind. @throws KilnError E_ARGUMENT, and as {@link resolveImage} */
export async function requireStart(
  engine: NamingPlace & { cwd(): string },
  { image, entrypoint }: { readonly image?: string; readonly entrypoint?: string },
): Promise<void> {
  if (entrypoint) return;
  if (image === undefined) throw noCommandError(undefined);
  const { kind } = await resolveImage(engine, image, engine.cwd());
  if (kind !== 'image') throw noCommandError(image);
}

function noCommandError(image: string | undefined): KilnError {
  const whose = image === undefined ? '' : `, and the image ${image} has no CMD`;
  const named = image === undefined ? '' : ` -r ${shellWord(image)}`;
  return new KilnError('E_ARGUMENT', `no command is given${whose}`, {
    hint: `write it behind --: kiln run${named} -- COMMAND; \`kiln shell${named}\` opens a shell`,
  });
}
