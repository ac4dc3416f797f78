import { resolve } from 'node:path';
import type { Command } from 'commander';
import { defined } from '../../defined.ts';
import { hostArchitecture } from '../../image/key.ts';
import { addedRepository } from '../../jobs/rpmbuild/buildroot/add-repository.ts';
import type { BuildRequest, BuildSource } from '../../jobs/rpmbuild/request.ts';
import type { Caller } from '../caller/caller.ts';
import { libvirtNetwork } from '../options/sandbox-options.ts';
import type { BuildOptions } from './build-options.ts';

/** Applies the command line's changes to the request of a resumed build. */
export function resumedRequest(
  srpm: string | undefined,
  options: BuildOptions,
  command: Command,
): Partial<BuildRequest> {
  if (srpm !== undefined) {
    return command.error('kiln: --resume goes on with the package in its sandbox: name no other');
  }
  const { shortCircuit, nocheck, timeout, stallTimeout } = options;
  const isGiven = command.getOptionValueSource('resultdir') === 'cli';
  return {
    ...defined({
      resultDirectory: isGiven ? resolve(options.resultdir) : undefined,
      shortCircuit,
      nocheck,
      keepSeconds: keepSeconds(options),
      signing: signing(options, command),
      time: (timeout ?? stallTimeout) ? defined({ timeout, stallTimeout }) : undefined,
    }),
  };
}

function signing(options: BuildOptions, command: Command): BuildRequest['signing'] {
  const { signKey, signPassphraseFile } = options;
  if (signKey !== undefined) {
    return {
      key: resolve(signKey),
      ...defined({ passphraseFile: resolved(signPassphraseFile) }),
    };
  }
  if (signPassphraseFile === undefined) return undefined;
  return command.error('kiln: --sign-passphrase-file is for the key of --sign-key: name it');
}

function keepSeconds({ keep }: BuildOptions): number | undefined {
  return keep && keep / 1000;
}

/** As reproducible-builds.org specifies it: whole seconds since 1970. */
function sourceDateEpoch({ SOURCE_DATE_EPOCH }: NodeJS.ProcessEnv): number | undefined {
  return /^\d{1,12}$/.test(SOURCE_DATE_EPOCH ?? '') ? Number(SOURCE_DATE_EPOCH) : undefined;
}

function networkUse(
  { network, egress }: BuildOptions,
  command: Command,
): NonNullable<BuildRequest['network']>['use'] {
  if (egress.length > 0) return { egress };
  return network === 'host' ? network : libvirtNetwork(network, command);
}

/** The request of a command line. */
export function buildRequest(
  srpm: string | undefined,
  options: BuildOptions,
  command: Command,
  caller: Pick<Caller, 'env' | 'cwd' | 'ids'>,
): BuildRequest {
  const { image } = options;
  if (image === undefined && options.lock === undefined) {
    return command.error('kiln: say which image to build in: -r IMAGE, or KILN_IMAGE');
  }
  if (options.vary.length > 0 && options.verify !== true) {
    return command.error('kiln: --vary is for --verify: say what to compare');
  }
  const phases = options.enableNetwork;
  if (options.egress.length > 0 && phases === undefined) {
    return command.error('kiln: --egress is for the phases of --enable-network: name them');
  }
  if (options.network === 'private' || options.network === 'none') {
    const message = `kiln: ${options.network} is the network of a build without --enable-network`;
    return command.error(message);
  }
  if (command.getOptionValueSource('network') === 'cli') {
    if (phases === undefined) {
      return command.error('kiln: --network is for the phases of --enable-network: name them');
    }
    if (options.egress.length > 0) {
      return command.error('kiln: --egress has a network of its own: leave --network out');
    }
  }
  const { memory, cpus, pids, ioRead, ioWrite, timeout, stallTimeout } = options;
  return {
    image: image ?? '',
    source: source(srpm, options, command),
    resultDirectory: resolve(options.resultdir),
    caller: caller.ids,
    defines: options.define,
    with: options.with,
    without: options.without,
    nocheck: options.nocheck === true,
    rpmbuildOptions: options.rpmbuildOpts,
    ...defined({
      lock: resolved(options.lock),
      target: options.target,
      shortCircuit: options.shortCircuit,
      network: phases && { use: networkUse(options, command), phases },
      disk: options.disk,
      keepSeconds: keepSeconds(options),
      signing: signing(options, command),
    }),
    additionalPackages: options.additionalPackage,
    repositories: options.addrepo.map((text, index) =>
      addedRepository(text, index, hostArchitecture(), caller.cwd()),
    ),
    caches: options.cache,
    limits: defined({ memory, cpus, pids, ioRead, ioWrite }),
    time: defined({ timeout, stallTimeout }),
    postinstall: options.postinstall === true,
    provenance: defined({
      key: resolved(options.provenanceKey),
      builder: options.builderId,
      sourceDateEpoch: sourceDateEpoch(caller.env),
    }),
    offline: options.offline === true,
    update: options.update === true,
  };
}

function source(srpm: string | undefined, options: BuildOptions, command: Command): BuildSource {
  const { spec, sources } = options;
  if (srpm?.endsWith('.spec') && spec === undefined) {
    return source(undefined, { ...options, spec: srpm }, command);
  }
  if (srpm !== undefined && spec === undefined) return { kind: 'srpm', path: resolve(srpm) };
  if (spec === undefined || srpm !== undefined) {
    return command.error('kiln: give a source package, or a spec with --spec');
  }
  return { kind: 'spec', path: resolve(spec), ...defined({ sources: resolved(sources) }) };
}

function resolved(path: string | undefined): string | undefined {
  return path ? resolve(path) : undefined;
}
