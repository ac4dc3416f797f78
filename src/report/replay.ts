/** The command line that does a job again, from what its result says was asked for. */
import type { Result } from '../result/schema.ts';
import { shellWord } from '../shell-words.ts';

type Fields = Readonly<Record<string, unknown>>;

/**
 * A command for a shell. Values of environment variables are in no result: the command takes them from the
 * caller's environment.
 * @returns undefined where the request is not of `kiln run` or of a package's build
 */
export function replayCommand({ request, image }: Result): string | undefined {
  const source = fields(request.source);
  const name = image?.name ?? text(request.image);
  if (Array.isArray(request.argv) && name !== undefined) {
    return command(['run', '-r', name, ...runOptions(request), '--', ...request.argv.map(String)]);
  }
  const path = text(source.path);
  const base = text(request.image);
  if (path === undefined || base === undefined) return undefined;
  const isSpec = source.kind === 'spec';
  const from = isSpec ? ['--spec', path, ...option('--sources', source.sources)] : [path];
  return command(['build', '-r', base, ...buildOptions(request), ...from]);
}

function command(words: readonly string[]): string {
  return ['kiln', ...words].map(shellWord).join(' ');
}

function runOptions(request: Fields): string[] {
  const { network } = request;
  const named = text(fields(network).name);
  return [
    ...each('--env', request.env),
    ...option('--workdir', request.workdir),
    ...option('--user', request.user),
    ...each('--cap-add', request.capAdd),
    ...(request.seccomp === 'default' ? [] : option('--seccomp', request.seccomp)),
    ...(network === 'host' ? ['--network', 'host'] : option('--network', named)),
    ...each('--egress', request.egress),
    ...pairs('--copy-in', request.copyIn),
    ...each('--artifact', request.artifacts),
    ...common(request),
  ];
}

function buildOptions(request: Fields): string[] {
  return [
    ...each('--define', request.defines),
    ...each('--with', request.with),
    ...each('--without', request.without),
    ...(request.nocheck === true ? ['--nocheck'] : []),
    ...option('--target', request.target),
    ...each('--additional-package', request.additionalPackages),
    ...(request.postinstall === true ? ['--postinstall'] : []),
    ...common(request),
  ];
}

function common(request: Fields): string[] {
  const { memory, cpus, pids } = fields(request.limits);
  return [
    ...option('--memory', memory),
    ...option('--cpus', cpus),
    ...option('--pids', pids),
    ...option('--disk', request.disk),
    ...milliseconds('--timeout', fields(request.time).timeout),
    ...milliseconds('--stall-timeout', fields(request.time).stallTimeout),
    ...option('--resultdir', request.resultDirectory),
  ];
}

function fields(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

function option(name: string, value: unknown): string[] {
  return typeof value === 'string' || typeof value === 'number' ? [name, String(value)] : [];
}

function milliseconds(name: string, value: unknown): string[] {
  return typeof value === 'number' ? [name, `${value / 1000}s`] : [];
}

function each(name: string, values: unknown): string[] {
  return Array.isArray(values) ? values.flatMap((value) => option(name, value)) : [];
}

function pairs(name: string, values: unknown): string[] {
  if (!Array.isArray(values)) return [];
  return values.flatMap((value) => {
    const { source, target } = fields(value);
    return typeof source === 'string' && typeof target === 'string'
      ? [name, `${source}:${target}`]
      : [];
  });
}
