import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { aboutFile } from '../confine/frame.ts';
import { KilnError } from '../errors.ts';
import type { BuildrootLock, BuildrootRpm } from '../repository/buildroot-lock.ts';
import { digestFile } from '../repository/cache.ts';
import { downloadUnknown } from '../repository/download.ts';
import { MAX_PACKAGE } from '../repository/limits.ts';
import { type Lock, type LockedPackage, lockOf } from '../repository/lock.ts';
import { LOCK_FORMAT } from '../repository/lock-format.ts';
import { Mirrors } from '../repository/mirrors.ts';
import { downloadContext, type OpenOptions } from '../repository/open.ts';
import { mapParallel } from '../repository/parallel.ts';
import { assertTrusted } from '../rpm/inspect.ts';
import type { RpmPackage } from '../rpm/package.ts';
import { readRpms } from '../rpm/read.ts';
import { orderPackages } from './order.ts';
import { sigmd5 } from './sigmd5.ts';

const REPOSITORY = 'buildroot-lock';

export interface ImportOptions extends Omit<OpenOptions, 'refresh'> {
  /** Unless the lock says it (`config.target_arch`). */
  readonly arch: string;
  /** Paths of the keys that must have signed every package; none: signatures are not checked later. */
  readonly gpgkey?: readonly string[] | undefined;
}

/**
 * Makes a lock of mock's buildroot_lock.json. That one names packages by URL and by an MD5 of
 * header and payload, and has no order; so every package is downloaded, compared with what is said
 * of it, and its sha256 and place found out.
 * @throws KilnError E_DOWNLOAD, E_PACKAGE_CHANGED, E_SOLVER_PROBLEM, E_RPM_…
 */
export async function importBuildrootLock(
  source: BuildrootLock,
  options: ImportOptions,
): Promise<Lock> {
  const context = downloadContext(options);
  const arch = source.config.target_arch ?? options.arch;
  const { rpms } = source.buildroot;
  const { parallel } = context.transfer;
  const files = await mapParallel(rpms, parallel, context.signal, async ({ url, name }, signal) => {
    if (url.startsWith('file:')) return fileURLToPath(url);
    const item = {
      repository: REPOSITORY,
      mirrors: new Mirrors([url], undefined),
      location: '',
      item: name,
    };
    return await downloadUnknown({ ...context, signal }, { ...item, maxSize: MAX_PACKAGE }, url);
  });
  for await (const result of readRpms(files, { depth: 'all', signal: context.signal })) {
    const { url = '' } = rpms[result.index] ?? {};
    if (result.error !== undefined) throw aboutUrl(result.error, result.file, url);
    try {
      assertTrusted(result.package, 'allow-unsigned');
    } catch (error) {
      throw error instanceof KilnError ? aboutFile(url, error) : error;
    }
    compare(rpms[result.index], result.package);
  }
  const locked = await Promise.all(rpms.map((rpm, index) => lockRpm(rpm, files[index] ?? '')));
  const order = await orderPackages(files, arch, context.signal);
  const gpgkey = [...(options.gpgkey ?? [])];
  const repository = {
    id: REPOSITORY,
    // Every location is a URL of its own.
    source: { kind: 'baseurl' as const, urls: [dirname(rpms[0]?.url ?? 'file:///')] },
    gpgcheck: gpgkey.length > 0,
    gpgkey,
  };
  return lockOf({
    format: LOCK_FORMAT,
    arch,
    requested: [],
    repositories: [repository],
    packages: order.map((index) => locked[index]),
  });
}

/** The path of a download tells nobody which package it is. */
function aboutUrl(error: KilnError, file: string, url: string): KilnError {
  return new KilnError(error.code, error.message.replaceAll(file, url), {
    cause: error.cause,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
  });
}

function compare(said: BuildrootRpm | undefined, found: RpmPackage): void {
  const md5 = sigmd5(found);
  const same =
    said !== undefined &&
    said.name === found.name &&
    said.version === found.version &&
    said.release === found.release &&
    said.arch === found.arch &&
    Number(said.epoch ?? 0) === (found.epoch ?? 0) &&
    said.sigmd5 === md5;
  if (same) return;
  throw new KilnError(
    'E_PACKAGE_CHANGED',
    `${said?.url} is not the package that the buildroot lock means (sigmd5 ${md5} instead of ${said?.sigmd5})`,
    { hint: 'make the lock anew' },
  );
}

async function lockRpm(rpm: BuildrootRpm, path: string): Promise<LockedPackage> {
  const { name, version, release, arch, url } = rpm;
  const epoch = Number(rpm.epoch ?? 0);
  return {
    nevra: `${name}-${epoch === 0 ? '' : `${epoch}:`}${version}-${release}.${arch}`,
    name,
    epoch,
    version,
    release,
    arch,
    digest: await digestFile(path, 'sha256'),
    size: (await stat(path)).size,
    location: url,
    repository: REPOSITORY,
  };
}
