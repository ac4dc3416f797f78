import type { z } from 'zod';
import { defined } from '../../../defined.ts';
import type { imageRecipeSchema } from '../../../recipe/image-recipe.ts';
import type { Bind } from '../../../sandbox/policy/specification.ts';
import type { BuildRequest } from '../../rpmbuild/request.ts';
import { targetArchitecture } from './architecture.ts';
import { bindMounts } from './bind-mount.ts';
import { type DnfConf, parseDnfConf } from './dnf-conf.ts';
import { type ConfigWarning, configError } from './language/problem.ts';
import { Templates } from './language/template.ts';
import {
  asText,
  type ConfigOptions,
  type ConfigValue,
  isDict,
  isList,
  isTrue,
} from './language/values.ts';
import { leftOut } from './left-out.ts';
import type { LoadedConfig } from './load.ts';
import { macroFile } from './macros.ts';
import { readModules } from './modules.ts';
import { type RepositorySwitch, readRepositories, switchedOn } from './repositories.ts';
import { readSetupCommand, sortWords } from './setup-command.ts';
import { type SignPlugin, signPlugin } from './sign.ts';

/** An image recipe in the form that people write. */
export type RecipeInput = z.input<typeof imageRecipeSchema>;

/** Environment variables for interactive sessions; they do not affect builds. */
const SESSION = new Set(['TERM', 'PROMPT_COMMAND', 'PS1', 'HOSTNAME']);

/** The meaning of a configuration. */
export interface ConfigMeaning {
  /** mock's name of the root. */
  readonly root: string;
  /** The image recipe of its roots. */
  readonly recipe: RecipeInput;
  /** The user who builds; everything else runs as root. */
  readonly user: string;
  /** mock's folder of roots; results inside it belong to a root. */
  readonly basedir: string;
  readonly resultDirectory: string;
  readonly network: boolean;
  readonly hostname: string | undefined;
  /** The time limit of rpmbuild in seconds; 0 for none. */
  readonly rpmbuildTimeout: number;
  readonly clean: boolean;
  readonly cleanupOnSuccess: boolean;
  readonly cleanupOnFailure: boolean;
  readonly check: boolean;
  readonly postInstall: boolean;
  readonly rpmbuildOptions: string;
  /** rpmbuild's --target, if it differs from the image's architecture. */
  readonly target: string | undefined;
  /** The size of the shared ccache; undefined if it is off. */
  readonly ccache: string | undefined;
  /** The key that signs the packages; undefined if they are not signed. */
  readonly sign: SignPlugin | undefined;
  /** Files of the plugins hw_info and package_state that are off. */
  readonly omit: NonNullable<BuildRequest['omit']>;
  /** The binds of the plugin bind_mount. */
  readonly binds: readonly Bind[];
  /** createrepo_on_rpms: make the result directory a repository. */
  readonly publish: boolean;
  /** more_buildreqs: packages that are installed for a source package's build, by its name. */
  readonly moreBuildRequires: ReadonlyMap<string, readonly string[]>;
  /** Ids of repositories that only the command line enables. */
  readonly switchedOn: readonly string[];
  readonly warnings: readonly ConfigWarning[];
}

/** The command line's settings that matter here. */
export interface MeaningSettings {
  /** This machine's architecture as rpm names it. */
  readonly host: string;
  readonly switches: readonly RepositorySwitch[];
  /** `--enable-plugin`, so that their place is not looked for in the configuration. */
  readonly enabledPlugins?: readonly string[];
}

/**
 * The meaning of a configuration in kiln's terms. @throws KilnError E_MOCK_CONFIG for an unsupported setting
 * that would change the build.
 */
export function configMeaning(config: LoadedConfig, settings: MeaningSettings): ConfigMeaning {
  const { options } = config;
  const templates = new Templates(options);
  const warnings = [...config.warnings, ...leftOut(options, templates, settings.enabledPlugins)];
  const text = (name: string) => asText(templates.value(name) ?? '');
  const user = text('chrootuser');
  const target = text('rpmbuild_arch');
  const sign = signPlugin(templates);
  const { arch } = targetArchitecture(options, templates, settings.host);
  return {
    root: rootName(text('root'), options),
    recipe: recipeOf(config, templates, settings, warnings),
    user,
    basedir: text('basedir'),
    resultDirectory: text('resultdir'),
    network: isTrue(templates.value('rpmbuild_networking')),
    hostname: isTrue(templates.value('hostname')) ? text('hostname') : undefined,
    rpmbuildTimeout: number(templates.value('rpmbuild_timeout')),
    clean: isTrue(templates.value('clean')),
    cleanupOnSuccess: isTrue(templates.value('cleanup_on_success')),
    cleanupOnFailure: isTrue(templates.value('cleanup_on_failure')),
    check: isTrue(templates.value('check')),
    postInstall: isTrue(templates.value('post_install')),
    rpmbuildOptions: isTrue(templates.value('rpmbuild_opts')) ? text('rpmbuild_opts') : '',
    target: [arch, text('target_arch')].includes(target) ? undefined : target,
    ccache: ccacheSize(templates),
    sign: sign === 'other' ? undefined : sign,
    omit: omittedFiles(templates),
    binds: bindMounts(templates),
    publish: isTrue(templates.value('createrepo_on_rpms')),
    moreBuildRequires: moreBuildRequires(templates),
    switchedOn: switchedOn(dnfConf(templates), settings.switches),
    warnings,
  };
}

/** The root's name, which is also the name of a folder. */
function rootName(name: string, options: ConfigOptions): string {
  if (/^[A-Za-z0-9_][A-Za-z0-9_.+@:~-]{0,199}$/.test(name)) return name;
  throw configError(
    `${JSON.stringify(name)} cannot be the name of a root`,
    options.placeOf('root'),
    {
      hint: 'letters, digits and _ . + - @ : ~ only',
    },
  );
}

function number(value: ConfigValue): number {
  const read = Number(value ?? 0);
  return Number.isFinite(read) && read > 0 ? read : 0;
}

/** Files of the result directory whose plugin is off. */
export function omittedFiles(templates: Templates): ConfigMeaning['omit'] {
  const conf = templates.value('plugin_conf');
  const isOff = (name: string) => isDict(conf) && !isTrue(conf.get(`${name}_enable`));
  return [
    ...(isOff('hw_info') ? (['hw_info.log'] as const) : []),
    ...(isOff('package_state') ? (['installed_pkgs.log'] as const) : []),
  ];
}

function moreBuildRequires(templates: Templates): ConfigMeaning['moreBuildRequires'] {
  const more = templates.value('more_buildreqs');
  if (!isDict(more)) return new Map();
  const list = (value: ConfigValue) => (isList(value) ? value.map(asText) : [asText(value)]);
  return new Map([...more].map(([name, value]) => [name, list(value)]));
}

function dnfConf(templates: Templates): DnfConf {
  return parseDnfConf(asText(templates.value('dnf.conf') ?? ''));
}

/** The size of the ccache plugin's cache; undefined if the plugin is off. */
export function ccacheSize(templates: Templates): string | undefined {
  const conf = templates.value('plugin_conf');
  if (!isDict(conf) || !isTrue(conf.get('ccache_enable'))) return undefined;
  const settings = conf.get('ccache_opts');
  return asText((isDict(settings) ? settings.get('max_cache_size') : undefined) ?? '4G');
}

function recipeOf(
  config: LoadedConfig,
  templates: Templates,
  settings: MeaningSettings,
  warnings: ConfigWarning[],
): RecipeInput {
  const { options } = config;
  const { arch, repositoryArch } = targetArchitecture(options, templates, settings.host);
  const setup = readSetupCommand(
    templates.value('chroot_setup_cmd'),
    options.placeOf('chroot_setup_cmd'),
  );
  const more = sortWords(words(templates.value('chroot_additional_packages')));
  const place = options.placeOf('dnf.conf');
  const conf = dnfConf(templates);
  for (const line of conf.unknown) {
    warnings.push({ message: `dnf.conf: \`${line}\` is left out: it is no option`, place });
  }
  const repositories = readRepositories(conf, {
    variables: dnfVariables(templates, arch, repositoryArch),
    switches: settings.switches,
    place,
    warn: (message) => warnings.push({ message, place }),
  });
  if (repositories.length === 0) {
    throw configError(`${config.name} has no repository that is enabled`, place, {
      hint: "config_opts['dnf.conf'] has a section for each one",
    });
  }
  const modules = readModules(templates, conf.main, options.placeOf('module_setup_commands'));
  const user = asText(templates.value('chrootuser'));
  const home = asText(templates.value('chroothome'));
  const uid = Number(templates.value('chrootuid'));
  return {
    description: asText(templates.value('description') ?? ''),
    arch,
    repositories,
    packages: [...setup.packages, ...more.packages],
    groups: [...setup.groups, ...more.groups],
    ...defined({ modules }),
    ...(conf.main.get('install_weak_deps') === '1' ? { recommends: true } : {}),
    users: [{ name: user, uid, home, shell: '/bin/bash' }],
    user,
    workdir: home,
    environment: environment(templates),
    files: files(options, templates),
  };
}

function words(value: ConfigValue): string[] {
  return isList(value)
    ? value.flatMap(words)
    : asText(value ?? '')
        .split(/\s+/)
        .filter(Boolean);
}

function dnfVariables(
  templates: Templates,
  arch: string,
  repositoryArch: string,
): Map<string, string> {
  const variables = new Map([
    ['arch', arch],
    ['basearch', repositoryArch],
  ]);
  const releasever = templates.value('releasever');
  if (isTrue(releasever)) variables.set('releasever', asText(releasever));
  const own = templates.value('dnf_vars');
  if (isDict(own)) for (const [name, value] of own) variables.set(name, asText(value));
  return variables;
}

function environment(templates: Templates): Record<string, string> {
  const value = templates.value('environment');
  if (!isDict(value)) return {};
  const pairs = [...value].filter(([name, item]) => !SESSION.has(name) && item !== null);
  return Object.fromEntries(pairs.map(([name, item]) => [name, asText(item)]));
}

function files(options: ConfigOptions, templates: Templates): RecipeInput['files'] {
  const wanted = templates.value('files');
  const written = isDict(wanted)
    ? [...wanted].map(([path, content]) => ({
        path: path.startsWith('/') ? path : `/${path}`,
        content: asText(content),
      }))
    : [];
  const macros = macroFile(templates.value('macros'), options.placeOf('macros'));
  return macros === undefined
    ? written
    : [...written, { path: '/etc/rpm/macros.mock', content: macros }];
}
