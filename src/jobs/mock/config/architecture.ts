import { configError } from './language/problem.ts';
import { Templates } from './language/template.ts';
import { asText, type ConfigOptions, isDict, isList, isTrue } from './language/values.ts';

/** Architectures that a machine runs beside its own: its processor executes them natively. */
const ALSO_RUNS: Readonly<Record<string, readonly string[]>> = {
  x86_64: ['i386', 'i486', 'i586', 'i686', 'x86_64_v2', 'x86_64_v3'],
  ppc64: ['ppc'],
  s390x: ['s390'],
};

/** dnf's `$basearch` where it differs from the architecture. */
const BASEARCH: Readonly<Record<string, string>> = {
  i486: 'i386',
  i586: 'i386',
  i686: 'i386',
  armv7hl: 'armhfp',
};

/**
 * Sets `rpmbuild_arch` and `repo_arch` as mock does once all files and the command line are read: templates use
 * them.
 */
export function completeArchitectures(options: ConfigOptions): void {
  const templates = new Templates(options);
  const target = asText(templates.value('target_arch'));
  if (options.get('rpmbuild_arch') === null) options.set('rpmbuild_arch', target);
  if (isTrue(options.get('repo_arch'))) return;
  const map = templates.value('repo_arch_map');
  options.set('repo_arch', (isDict(map) ? map.get(target) : undefined) ?? target);
}

/** The architecture that a configuration builds for. */
export interface TargetArchitecture {
  /** The architecture as rpm names it. */
  readonly arch: string;
  /** The value of `$basearch`. */
  readonly repositoryArch: string;
}

/**
 * The architecture to build for, which this machine must run itself.
 * @throws KilnError E_MOCK_CONFIG for others, as mock with `legal_host_arches`.
 */
export function targetArchitecture(
  options: ConfigOptions,
  templates: Templates,
  host: string,
): TargetArchitecture {
  const arch = asText(templates.value('target_arch'));
  const place = options.placeOf('target_arch');
  const legal = templates.value('legal_host_arches');
  const refused = isList(legal) && !legal.map(asText).includes(host);
  if (refused || (arch !== host && !(ALSO_RUNS[host] ?? []).includes(arch))) {
    const listed = isList(legal)
      ? `, its legal_host_arches are ${legal.map(asText).join(', ')}`
      : '';
    throw configError(`cannot build for ${arch} on ${host}${listed}`, place, {
      hint: `use a machine that runs ${arch}: kiln emulates no processor (--forcearch)`,
    });
  }
  const said = asText(templates.value('repo_arch'));
  return {
    arch: arch === 'i386' ? 'i686' : arch,
    repositoryArch: said === arch ? (BASEARCH[arch] ?? arch) : said,
  };
}
