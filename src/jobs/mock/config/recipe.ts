import { defined } from '../../../defined.ts';
import { runsItself } from '../../../host/process/architecture.ts';
import { basearchOf } from '../../../packages/repository/configuration.ts';
import type { ImageRecipeInput } from '../../../recipe/image-recipe.ts';
import { booleanOption } from './dnf-options.ts';
import { leftOut } from './left-out.ts';
import type { LoadedConfig } from './load.ts';
import { readModules, readSetupCommand, sortWords } from './modules.ts';
import { withCommonOptions } from './package-manager.ts';
import { bindMounts, ccacheSize, chrootScan, omittedFiles, signPlugin } from './plugins.ts';
import {
  type DnfConf,
  parseDnfConf,
  type RepositorySwitch,
  readRepositories,
  switchedOn,
} from './repositories.ts';
import {
  asText,
  type ConfigOptions,
  type ConfigValue,
  type ConfigWarning,
  configError,
  isDict,
  isList,
  isTrue,
  type Place,
} from './values.ts';

/** Environment variables for interactive sessions; they do not affect builds. */
const SESSION = new Set(['TERM', 'PROMPT_COMMAND', 'PS1', 'HOSTNAME']);

export type ConfigMeaning = Readonly<ReturnType<typeof configMeaning>>;

interface MeaningSettings {
  readonly host: string;
  readonly switches: readonly RepositorySwitch[];
  readonly enabledPlugins?: readonly string[];
}

export function configMeaning(config: LoadedConfig, settings: MeaningSettings) {
  const { options } = config;
  const warnings = [...config.warnings, ...leftOut(options, settings.enabledPlugins)];
  const text = (name: string) => asText(options.value(name) ?? '');
  const target = text('rpmbuild_arch');
  const { arch } = targetArchitecture(options, settings.host);
  if (options.isDefault('target_arch') && options.placeOf('target_arch') === undefined) {
    const said = text('target_arch');
    warnings.push({
      message: `target_arch is ${said}, mock’s default: the configuration sets none`,
    });
  }
  const dnf = readDnf(options, settings.switches, warnings);
  return {
    ...buildSettings(options),
    root: rootName(text('root'), options),
    recipe: recipeOf(config, dnf, settings.host, warnings),
    user: text('chrootuser'),
    resultDirectory: text('resultdir'),
    target: [arch, text('target_arch')].includes(target) ? undefined : target,
    switchedOn: switchedOn(dnf.conf, settings.switches),
    warnings,
  };
}

/** What mock's defaults say of builds. */
export function defaultSettings(basedir: string): ReturnType<typeof buildSettings> {
  return {
    basedir,
    network: false,
    hostname: undefined,
    rpmbuildTimeout: 0,
    clean: true,
    cleanupOnSuccess: true,
    cleanupOnFailure: true,
    check: true,
    offline: false,
    postInstall: false,
    rpmbuildOptions: '',
    ccache: undefined,
    sign: undefined,
    omit: [],
    scan: undefined,
    binds: [],
    publish: false,
    moreBuildRequires: new Map(),
  };
}

/** What options say of builds, whether they are a configuration's or the defaults. */
export function buildSettings(options: ConfigOptions) {
  const text = (name: string) => asText(options.value(name) ?? '');
  const flag = (name: string) => isTrue(options.value(name));
  const sign = signPlugin(options);
  return {
    /** mock's folder of roots; results inside it belong to a root. */
    basedir: text('basedir'),
    network: flag('rpmbuild_networking'),
    hostname: flag('hostname') ? text('hostname') : undefined,
    /** The time limit of rpmbuild in seconds; 0 for none. */
    rpmbuildTimeout: number(options.value('rpmbuild_timeout')),
    clean: flag('clean'),
    cleanupOnSuccess: flag('cleanup_on_success'),
    cleanupOnFailure: flag('cleanup_on_failure'),
    check: flag('check'),
    offline: !flag('online'),
    postInstall: flag('post_install'),
    rpmbuildOptions: flag('rpmbuild_opts') ? text('rpmbuild_opts') : '',
    ccache: ccacheSize(options),
    sign: sign === 'other' ? undefined : sign,
    omit: omittedFiles(options),
    scan: chrootScan(options),
    binds: bindMounts(options),
    publish: flag('createrepo_on_rpms'),
    moreBuildRequires: moreBuildRequires(options),
  };
}

function rootName(name: string, options: ConfigOptions): string {
  if (/^[A-Za-z0-9_][A-Za-z0-9_.+@:~-]{0,199}$/.test(name)) return name;
  const what = `${JSON.stringify(name)} cannot be the name of a root`;
  throw configError(what, options.placeOf('root'), {
    hint: 'letters, digits and _ . + - @ : ~ only',
  });
}

function number(value: ConfigValue): number {
  const read = Number(value ?? 0);
  return Number.isFinite(read) && read > 0 ? read : 0;
}

/** more_buildreqs: packages that are installed for a source package's build, by its name. */
function moreBuildRequires(options: ConfigOptions): ReadonlyMap<string, readonly string[]> {
  const more = options.value('more_buildreqs');
  if (!isDict(more)) return new Map();
  const list = (value: ConfigValue) => (isList(value) ? value.map(asText) : [asText(value)]);
  return new Map([...more].map(([name, value]) => [name, list(value)]));
}

/** The dnf.conf that counts, and which repositories are switched on or off. */
function readDnf(
  options: ConfigOptions,
  switches: readonly RepositorySwitch[],
  warnings: ConfigWarning[],
) {
  const place = options.placeOf('dnf.conf');
  const written = parseDnfConf(asText(options.value('dnf.conf') ?? ''));
  for (const line of written.unknown) {
    warnings.push({ message: `dnf.conf: \`${line}\` is left out: it is not an option`, place });
  }
  const common = withCommonOptions(written, options, warnings);
  return { ...common, switches: [...common.switches, ...switches] };
}

function recipeOf(
  config: LoadedConfig,
  { conf, switches, placeOf }: ReturnType<typeof readDnf>,
  host: string,
  warnings: ConfigWarning[],
): ImageRecipeInput {
  const { options } = config;
  const { arch, repositoryArch } = targetArchitecture(options, host);
  const command = 'chroot_setup_cmd';
  const setup = readSetupCommand(options.value(command), options.placeOf(command));
  const more = sortWords(words(options.value('chroot_additional_packages')));
  const place = options.placeOf('dnf.conf');
  const repositories = readRepositories(conf, {
    variables: dnfVariables(options, arch, repositoryArch),
    switches,
    place,
    warn: (message, section = '', option = '') =>
      warnings.push({ message, place: placeOf(section, option) ?? place }),
  });
  if (repositories.length === 0) {
    throw configError(`${config.name} has no repository that is enabled`, place, {
      hint: "config_opts['dnf.conf'] has a section for each one",
    });
  }
  const modules = readModules(options, conf.main, options.placeOf('module_setup_commands'));
  const user = asText(options.value('chrootuser'));
  const home = asText(options.value('chroothome'));
  const uid = Number(options.value('chrootuid'));
  return {
    description: asText(options.value('description') ?? ''),
    arch,
    repositories,
    packages: [...setup.packages, ...more.packages],
    groups: [...setup.groups, ...more.groups],
    ...defined({ modules }),
    ...(withWeakDependencies(conf, options) ? { recommends: true } : {}),
    users: [
      {
        name: user,
        uid,
        gid: Number(options.value('chrootgid')),
        group: asText(options.value('chrootgroup')),
        home,
        shell: '/bin/bash',
      },
    ],
    user,
    workdir: home,
    environment: environment(options),
    files: files(options),
    folders: words(options.value('extra_chroot_dirs')),
  };
}

/** As dnf does unless it is told otherwise; yum knows none. */
function withWeakDependencies({ main }: DnfConf, options: ConfigOptions): boolean {
  const isYum = options.value('package_manager') === 'yum';
  return booleanOption(main.get('install_weak_deps')) ?? !isYum;
}

function words(value: ConfigValue): string[] {
  return isList(value)
    ? value.flatMap(words)
    : asText(value ?? '')
        .split(/\s+/)
        .filter(Boolean);
}

function dnfVariables(
  options: ConfigOptions,
  arch: string,
  repositoryArch: string,
): Map<string, string> {
  const variables = new Map(Object.entries({ arch, basearch: repositoryArch }));
  const releasever = options.value('releasever');
  if (isTrue(releasever)) {
    const [major = '', minor = ''] = asText(releasever).split('.');
    variables.set('releasever', asText(releasever));
    variables.set('releasever_major', major).set('releasever_minor', minor);
  }
  const own = options.value('dnf_vars');
  if (isDict(own)) for (const [name, value] of own) variables.set(name, asText(value));
  return variables;
}

function environment(options: ConfigOptions): Record<string, string> {
  const value = options.value('environment');
  if (!isDict(value)) return {};
  const pairs = [...value].filter(([name, item]) => !SESSION.has(name) && item !== null);
  return Object.fromEntries(pairs.map(([name, item]) => [name, asText(item)]));
}

function files(options: ConfigOptions): ImageRecipeInput['files'] {
  const wanted = options.value('files');
  const written = isDict(wanted)
    ? [...wanted].map(([path, content]) => ({
        path: path.startsWith('/') ? path : `/${path}`,
        content: asText(content),
      }))
    : [];
  const macros = macroFile(options.value('macros'), options.placeOf('macros'));
  return macros === '' ? written : [...written, { path: '/etc/rpm/macros.mock', content: macros }];
}

/** Macros for rpmbuild's folders, which kiln's builds choose themselves. */
const OWN = new Set(['%_topdir', '%_rpmfilename', '%_platform_multiplier']);

/**
 * The text of an rpm macro file for `config_opts['macros']`, empty if there are no macros. A macro with the
 * value None is left to the image. @throws KilnError E_MOCK_CONFIG for an invalid name.
 */
function macroFile(macros: ConfigValue, place: Place | undefined): string {
  if (!isDict(macros)) throw configError('macros must be a dict', place);
  const lines: string[] = [];
  for (const [name, value] of macros) {
    const full = name.startsWith('%') ? name : `%${name}`;
    if (!/^%[A-Za-z_]\w*(?:\([^)\s]*\))?$/.test(full)) {
      throw configError(`${JSON.stringify(name)} is not the name of a macro`, place);
    }
    if (value === null || OWN.has(full)) continue;
    lines.push(`${full} ${asText(value).replace(/\n/g, '\\\n')}\n`);
  }
  return lines.join('');
}

/**
 * The architecture to build for, which this machine must run itself unless forcearch names it.
 * @throws KilnError E_MOCK_CONFIG for others, as mock with `legal_host_arches`.
 */
function targetArchitecture(options: ConfigOptions, host: string) {
  const arch = asText(options.value('target_arch'));
  const place = options.placeOf('target_arch');
  const legal = options.value('legal_host_arches');
  const forced = asText(options.value('forcearch') ?? '');
  if (forced !== '' && forced !== arch) {
    throw configError(`forcearch is ${forced}, and target_arch is ${arch}`, place, {
      hint: `name a configuration for ${forced}, or give --arch ${forced} as well`,
    });
  }
  const refused = isList(legal) && !legal.map(asText).includes(host);
  if (forced === '' && (refused || !runsItself(arch, host))) {
    const listed = isList(legal)
      ? `, its legal_host_arches are ${legal.map(asText).join(', ')}`
      : '';
    throw configError(`cannot build for ${arch} on ${host}${listed}`, place, {
      hint: `use a machine that runs ${arch}; --forcearch ${arch} has an emulator run it`,
    });
  }
  const said = asText(options.value('repo_arch'));
  return {
    arch: arch === 'i386' ? 'i686' : arch,
    repositoryArch: said === arch ? basearchOf(arch) : said,
  };
}
