import { resolve } from 'node:path';
import type { Command } from 'commander';
import { hostArchitecture } from '../../image/key.ts';
import { addedRepository } from '../../jobs/rpmbuild/buildroot/add-repository.ts';
import type { BuildRequest, BuildSource } from '../../jobs/rpmbuild/request.ts';
import type { Caller } from '../caller/caller.ts';
import { libvirtNetwork } from '../sandbox-options.ts';
import type { BuildOptions } from './build-options.ts';

/** What a command line changes of the request of a build that is resumed. */
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
    ...given('resultDirectory', isGiven ? resolve(options.resultdir) : undefined),
    ...given('shortCircuit', shortCircuit),
    ...given('nocheck', nocheck),
    ...given('keepSeconds', keepSeconds(options)),
    ...given('signing', signing(options, command)),
    ...(timeout === undefined && stallTimeout === undefined
      ? {}
      : { time: { ...given('timeout', timeout), ...given('stallTimeout', stallTimeout) } }),
  };
}

function signing(options: BuildOptions, command: Command): BuildRequest['signing'] {
  const { signKey, signPassphraseFile } = options;
  if (signKey !== undefined) {
    return {
      key: resolve(signKey),
      ...given('passphraseFile', signPassphraseFile && resolve(signPassphraseFile)),
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

/** The request that a command line makes. */
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
  return {
    image: image ?? '',
    ...given('lock', options.lock && resolve(options.lock)),
    source: source(srpm, options, command),
    resultDirectory: resolve(options.resultdir),
    caller: caller.ids,
    defines: options.define,
    with: options.with,
    without: options.without,
    nocheck: options.nocheck === true,
    ...given('target', options.target),
    rpmbuildOptions: options.rpmbuildOpts,
    ...given('shortCircuit', options.shortCircuit),
    ...given('network', phases && { use: networkUse(options, command), phases }),
    additionalPackages: options.additionalPackage,
    repositories: options.addrepo.map((text, index) =>
      addedRepository(text, index, hostArchitecture(), caller.cwd()),
    ),
    caches: options.cache,
    limits: {
      ...given('memory', options.memory),
      ...given('cpus', options.cpus),
      ...given('pids', options.pids),
      ...given('ioRead', options.ioRead),
      ...given('ioWrite', options.ioWrite),
    },
    ...given('disk', options.disk),
    time: { ...given('timeout', options.timeout), ...given('stallTimeout', options.stallTimeout) },
    ...given('keepSeconds', keepSeconds(options)),
    postinstall: options.postinstall === true,
    provenance: {
      ...given('key', options.provenanceKey && resolve(options.provenanceKey)),
      ...given('builder', options.builderId),
      ...given('sourceDateEpoch', sourceDateEpoch(caller.env)),
    },
    ...given('signing', signing(options, command)),
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
  return { kind: 'spec', path: resolve(spec), ...given('sources', sources && resolve(sources)) };
}

function given<Name extends string, Value>(
  name: Name,
  value: Value | undefined | '',
): { [Key in Name]?: Value } {
  return value === undefined || value === '' ? {} : ({ [name]: value } as { [Key in Name]: Value });
}
