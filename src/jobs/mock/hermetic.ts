/** `--hermetic-build LOCK REPO SRPM`: builds with the packages of a buildroot_lock.json, and no others, from a folder. */
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { z } from 'zod';
import { KilnError } from '../../errors.ts';
import { openedPath } from '../../host/files/held.ts';
import { readUserText } from '../../host/files/user-file.ts';
import { fetchPackages } from '../../packages/repository/fetch-packages.ts';
import { openBase } from '../rpmbuild/buildroot/base.ts';
import { exportBuildrootLock } from '../rpmbuild/buildroot/root-files.ts';
import { buildIn } from './build.ts';
import type { ConfigChange } from './config/evaluate.ts';
import { argumentError, usageError } from './outcome.ts';
import {
  type ChrootSession,
  chrootRequest,
  type MockSession,
  openBaseImage,
  withChroot,
} from './session.ts';

/** Options by which other packages could come into the build. */
const OTHERWISE = ['no-clean', 'short-circuit', 'addrepo'];

/** Bytes: mock's own have some 100 KB. */
const LOCK_MAX = 32 * 2 ** 20;

const WORD = /^[A-Za-z0-9_][\w.+~^-]*$/;
const word = z.string().regex(WORD);

/** What counts of mock's format. Its `bootstrap` is what packages are installed with, which is kiln itself here. */
const lockSchema = z.object({
  version: z.string().regex(/^1\./),
  buildroot: z.object({
    rpms: z
      .array(
        z.object({
          name: word,
          arch: word,
          epoch: z.string().regex(/^\d+$/).nullable(),
          version: word,
          release: word,
          sigmd5: z.string().regex(/^[0-9a-f]{32}$/),
        }),
      )
      .min(1),
  }),
  config: z.object({
    target_arch: word.optional(),
    legal_host_arches: z.array(word).optional(),
    dist: z
      .string()
      .regex(/^[\w.+~^-]*$/)
      .optional(),
  }),
});

type HermeticLock = z.output<typeof lockSchema>;
type Rpm = HermeticLock['buildroot']['rpms'][number];

export async function hermeticBuild(session: MockSession): Promise<number> {
  const { engine, line, log } = session;
  const [lockFile, folder, srpm, ...others] = line.args;
  if (lockFile === undefined || folder === undefined || srpm === undefined || others.length > 0) {
    throw argumentError('--hermetic-build needs a lock, a folder with its packages, and one SRPM');
  }
  for (const name of OTHERWISE) {
    if (!line.has(name)) continue;
    throw usageError(`--${name}: a hermetic build takes packages of its lock only, in a new root`);
  }
  if (line.has('root'))
    log.info('--root changes nothing with --hermetic-build: the lock says it all');
  const lock = readLock(lockFile);
  const config = configuration(lock, resolve(engine.cwd(), folder));
  const at = await withChroot(session, { ...chrootRequest(session), config });
  await checkPackages(at, lock);
  return await buildIn(at, [srpm], {});
}

function readLock(file: string): HermeticLock {
  const path = openedPath(file);
  const refusal = (cause: unknown) => {
    const hint = 'take the buildroot_lock.json that --calculate-build-dependencies writes';
    return new KilnError('E_LOCK_READ', `${file} cannot be read`, { cause, hint });
  };
  const text = readUserText(path, LOCK_MAX, refusal);
  try {
    return lockSchema.parse(JSON.parse(text));
  } catch (cause) {
    const [issue] = cause instanceof z.ZodError ? cause.issues : [];
    const where = issue === undefined ? '' : `: ${issue.path.join('.')}: ${issue.message}`;
    throw new KilnError('E_LOCK_INVALID', `${file} is no buildroot_lock.json${where}`, {
      hint: 'mock’s docs/buildroot-lock-schema-1.1.0.json says what is in one; take one of version 1',
      cause,
    });
  }
}

/** In place of mock's hermetic-build.cfg. */
function configuration({ buildroot, config }: HermeticLock, folder: string): ConfigChange[] {
  const { target_arch, legal_host_arches, dist } = config;
  const rpms = buildroot.rpms.map(nevra);
  const values = {
    root: 'hermetic-build',
    description: 'Configuration file for Hermetic Builds',
    chroot_setup_cmd: ['install', ...rpms].join(' '),
    'dnf.conf': `[main]
gpgcheck=0
install_weak_deps=0
metadata_expire=0
[offline]
name=offline repo
baseurl=${pathToFileURL(folder).href}
includepkgs=${rpms.join(' ')}
`,
    ...(target_arch !== undefined && { target_arch }),
    ...(legal_host_arches !== undefined && { legal_host_arches }),
    ...(dist !== undefined && { dist }),
  };
  return Object.entries(values).map(([name, value]) => ['set', name, value]);
}

function nevra({ name, epoch, version, release, arch }: Omit<Rpm, 'sigmd5'>): string {
  const before = epoch === null || epoch === '0' ? '' : `${epoch}:`;
  return `${name}-${before}${version}-${release}.${arch}`;
}

/** Makes the image, and compares its packages with the lock. @throws KilnError E_LOCK_MISMATCH */
async function checkPackages(at: ChrootSession, lock: HermeticLock): Promise<void> {
  const { engine, chroot, signal, log } = at;
  await log.state('chroot init', async () => {
    await using _ = await openBaseImage(at);
  });
  await using base = await openBase(engine, chroot.recipe, { update: false, signal });
  if (base.lock === undefined) throw new TypeError('an image of a configuration has a lock');
  const { packages } = base.lock;
  const options = { paths: engine.paths, signal };
  const made = await exportBuildrootLock(packages, await fetchPackages(packages, options), options);
  const wanted = new Map(lock.buildroot.rpms.map((rpm) => [nevra(rpm), rpm.sigmd5]));
  for (const rpm of made.buildroot.rpms) {
    if (wanted.get(nevra(rpm)) === rpm.sigmd5) continue;
    throw new KilnError('E_LOCK_MISMATCH', `${nevra(rpm)} is another file than the lock names`, {
      hint: 'make the folder anew from the lock: `mock-hermetic-repo --lockfile LOCK --output-repo FOLDER`',
    });
  }
}
