import { existsSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { resultDirectoryError } from '../../artifacts/destination.ts';
import { sizeInWords } from '../../host/calls/system-error.ts';
import { Folder } from '../../host/files/folder.ts';
import { below, type HeldPath, openedPath } from '../../host/files/held.ts';
import { diskExceededError } from '../../host/state/disk-watch.ts';
import { usageOf } from '../../image/store/user-storage.ts';
import { localRepository } from '../../packages/repository/configuration.ts';
import { publishRepository, type Snapshot } from '../../packages/repository/publish/snapshot.ts';
import { againIfKilled } from '../rpmbuild/build.ts';
import { build } from './build.ts';
import { mockBuildRequest } from './build-request.ts';
import { argumentError, buildHooks, finishBuild, MOCK_STATUS, usageError } from './outcome.ts';
import { MockRoot } from './root/root.ts';
import {
  type ChrootSession,
  hostPath,
  type MockSession,
  openBaseImage,
  withChroot,
} from './session.ts';
import { buildSources, type HostKey, hostKey } from './sources.ts';

const MARKS = { done: 'success', failed: 'fail' } as const;

/**
 * `--chain SRPM…`: builds in the given order, each with the results of those before. mock does this; `kiln
 * build --chain` finds the order itself and builds in parallel.
 */
export async function chain(session: MockSession): Promise<number> {
  const { line, log } = session;
  if (line.args.length === 0) throw argumentError('You must specify an SRPM file with --chain');
  if (line.value('resultdir') !== undefined) {
    throw usageError("The --chain mode doesn't support --resultdir, use --localrepo instead");
  }
  await using sources = await buildSources(session, line.args);
  for (const { path } of sources.list) {
    if (!existsSync(path)) throw argumentError(`No such file or directory: ${path}`);
  }
  const srpms = sources.list.map(({ path }) => path);
  const at = await withChroot(session);
  const { chroot } = at;
  const results = await resultsDirectory(session, chroot.config);
  await using root = await MockRoot.lock(session.engine, chroot.root);
  await log.state('clean chroot', () => root.clean());
  const { current } = (await root.open(() => undefined))?.record ?? {};
  if (current !== undefined) {
    throw usageError(
      `--chain builds in fresh roots, and ${chroot.root} is at its snapshot ${current}`,
      'go back to its image first: `kiln-mock --rollback-to postinit`',
    );
  }
  await using _image = await log.state('chroot init', () => openBaseImage(at));
  log.info(`results dir: ${results}`);
  using key = await hostKey(chroot.sign, session.caller);
  await using run = new ChainRun(at, results, key);
  return await run.all(srpms);
}

async function resultsDirectory({ line, caller }: MockSession, config: string): Promise<HeldPath> {
  const localrepo = line.value('localrepo');
  const top = await caller.paths.loneResults(
    localrepo === undefined
      ? await mkdtemp(join(tmpdir(), 'kiln-mock-chain-'))
      : hostPath(localrepo),
  );
  const directory = below(top, `results/${config}`);
  try {
    using folder = Folder.open(top);
    using results = folder.inner('results', caller.ids);
    results.inner(config, caller.ids)[Symbol.dispose]();
  } catch (cause) {
    throw resultDirectoryError(directory, cause);
  }
  return directory;
}

class ChainRun implements AsyncDisposable {
  readonly #session: ChrootSession;
  readonly #results: HeldPath;
  readonly #key: HostKey;
  #snapshot: Snapshot | undefined;

  constructor(session: ChrootSession, results: HeldPath, key: HostKey) {
    this.#session = session;
    this.#results = results;
    this.#key = key;
  }

  async all(srpms: readonly string[]): Promise<number> {
    const { line, log } = this.#session;
    const recurse = line.has('recurse');
    const goOn = line.has('continue') || recurse;
    await this.#publish();
    let left = srpms;
    for (let progress = true; progress && left.length > 0; ) {
      const failed: string[] = [];
      for (const [index, srpm] of left.entries()) {
        if (await this.#one(openedPath(srpm))) continue;
        failed.push(srpm);
        if (!goOn) {
          failed.push(...left.slice(index + 1));
          break;
        }
      }
      progress = recurse && failed.length < left.length;
      if (progress && failed.length > 0) log.info(`Trying to rebuild ${failed.length} failed pkgs`);
      left = failed;
    }
    const { length } = srpms;
    log.info(`Results out to: ${this.#results}`);
    if (left.length === 0) {
      log.info(`Success building ${length} out of ${length}`);
      return 0;
    }
    log.error(`Success building ${length - left.length} out of ${length}`);
    log.error(`Failed to build in chain mode:\n${left.map((it) => `  ${it}`).join('\n')}`);
    return MOCK_STATUS.chain;
  }

  async #one(srpm: HeldPath): Promise<boolean> {
    const { chroot, log, signal } = this.#session;
    const what = basename(srpm);
    const name = what.replace(/(\.src|\.nosrc)?\.rpm$/, '');
    const directory = below(this.#results, name);
    // Opened before the build, so that results cannot be redirected by a link.
    using folder = this.#folderOf(name);
    if (folder.has(MARKS.done)) {
      log.info(`Skipping ${what}: it was built before`);
      return true;
    }
    log.info(`Start build: ${srpm}`);
    const source = { kind: 'srpm', path: srpm } as const;
    const request = mockBuildRequest(this.#session, source, directory);
    const own = localRepository('kiln-mock-chain', this.#snapshot!.path);
    const repositories = [...(request.repositories ?? []), own];
    const whole = {
      ...{ ...request, ...this.#key.request, repositories },
      logSharers: this.#session.line.args.length,
    };
    const hooks = buildHooks(this.#session, what);
    const report = await againIfKilled(hooks, () => build(this.#session, whole));
    // Whoever ends all of it is told so once.
    signal.throwIfAborted();
    const done = finishBuild(log, report, what, chroot.root) === 0;
    folder.remove(done ? MARKS.failed : MARKS.done);
    folder.replace(done ? MARKS.done : MARKS.failed, '', this.#session.caller.ids);
    if (done) await this.#publish();
    return done;
  }

  #folderOf(name: string): Folder {
    try {
      using results = Folder.open(this.#results);
      return results.inner(name, this.#session.caller.ids);
    } catch (cause) {
      throw resultDirectoryError(join(this.#results, name), cause);
    }
  }

  async #publish(): Promise<void> {
    const { owner } = this.#session.engine;
    // What one build adds is within the share already.
    if (owner !== undefined && usageOf(this.#results).bytes > owner.share.disk) {
      const hint = 'build fewer packages at a time; root sets users.limits.disk';
      throw diskExceededError('the chain', `more than ${sizeInWords(owner.share.disk)}`, hint);
    }
    const files: { path: string }[] = [];
    using results = Folder.open(this.#results);
    for (const name of results.names()) {
      using folder = results.existing(name);
      if (folder === undefined || !folder.has(MARKS.done)) continue;
      for (const file of folder.names()) {
        if (file.endsWith('.rpm') && !file.endsWith('src.rpm')) {
          files.push({ path: join(this.#results, name, file) });
        }
      }
    }
    const { signal } = this.#session;
    const repository = join(this.#results, 'repository');
    const snapshot = await publishRepository(repository, files, { signal });
    await this.#snapshot?.[Symbol.asyncDispose]();
    this.#snapshot = snapshot;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#snapshot?.[Symbol.asyncDispose]();
  }
}
