import { globExpression } from '../../../packages/solver/match.ts';
import type { DnfConf, RepositorySwitch } from './repositories.ts';
import {
  asText,
  type ConfigOptions,
  type ConfigWarning,
  commandWords,
  type Place,
} from './values.ts';

/** Options of dnf that change nothing here: how much it says, what it asks, and what kiln does anyway. */
const WITHOUT_EFFECT =
  /^(?:-[yqv]+|--(?:assumeyes|quiet|verbose|debuglevel|errorlevel|color|allowerasing|best|obsoletes|refresh|noplugins|disableplugin|randomwait|rpmverbosity|setopt|exclude|excludepkgs|enablerepo|enable-repo|disablerepo|disable-repo)(?:=.*)?)$/;

const TAKES_VALUE =
  /^(?:-[xde]|--(?:setopt|exclude|excludepkgs|enablerepo|enable-repo|disablerepo|disable-repo|debuglevel|errorlevel|color|disableplugin|rpmverbosity))$/;

interface CommonOptions {
  readonly conf: DnfConf;
  readonly switches: readonly RepositorySwitch[];
  /** Where an option of a section was set, if not in dnf.conf. */
  placeOf(section: string, option: string): Place | undefined;
}

/** Lists, to which dnf adds what it is given; an empty text makes them empty. */
const ADDED_TO = /^(?:exclude|excludepkgs|includepkgs|installonlypkgs|tsflags)$/;

/**
 * Applies the options that a configuration gives to its package manager (`dnf4_common_opts` and its like, and those of
 * `chroot_setup_cmd`) to its dnf.conf. What kiln does not do is warned of.
 */
export function withCommonOptions(
  conf: DnfConf,
  options: ConfigOptions,
  warnings: ConfigWarning[],
): CommonOptions {
  const common = `${asText(options.value('package_manager')).replace(/^dnf$/, 'dnf4')}_common_opts`;
  const given = [common, 'chroot_setup_cmd'].flatMap((name) =>
    splitOptions(commandWords(options.value(name))).pairs.map((pair) => [name, ...pair] as const),
  );
  const main = new Map(conf.main);
  const repositories = new Map(
    [...conf.repositories].map(([id, section]) => [id, new Map(section)]),
  );
  const switches: RepositorySwitch[] = [];
  const places = new Map<string, Place | undefined>();
  const set = (pattern: string | undefined, key: string, text: string, name: string) => {
    const sections: [string, Map<string, string>][] =
      pattern === undefined
        ? [['main', main]]
        : [...repositories].filter(([id]) => globExpression(pattern).test(id));
    for (const [id, section] of sections) {
      const before = ADDED_TO.test(key) && text !== '' ? section.get(key) : undefined;
      section.set(key, before ? `${before},${text}` : text);
      places.set(`${id}.${key}`, options.placeOf(name));
    }
  };
  for (const [name, option, value] of given) {
    const setting = /^(?:([^=]+)\.)?(\w+)=(.*)$/s.exec(value);
    if (option === '--setopt' && setting !== null) {
      const [, pattern, key = '', text = ''] = setting;
      set(pattern, key, text, name);
    } else if (/^(?:-x|--exclude(?:pkgs)?)$/.test(option)) {
      set(undefined, 'excludepkgs', value, name);
    } else if (/^--(?:en|dis)able-?repo$/.test(option)) {
      const enabled = option.startsWith('--en');
      switches.push(...value.split(',').map((pattern) => ({ pattern, enabled })));
    } else if (option === '--nobest' || option === '--no-best') {
      set(undefined, 'best', '0', name);
    } else if (!WITHOUT_EFFECT.test(option)) {
      const written = value === '' ? option : `${option} ${value}`;
      warnings.push({
        message: `${name}: ${written} is left out: write what it means into dnf.conf`,
        place: options.placeOf(name),
      });
    }
  }
  return {
    conf: { ...conf, main, repositories },
    switches,
    placeOf: (section, option) => places.get(`${section}.${option}`),
  };
}

/** Parts `--name=value`, `--name value` and `--name` from the other words. */
export function splitOptions(words: readonly string[]) {
  const pairs: [option: string, value: string][] = [];
  const rest: string[] = [];
  const waiting = [...words];
  for (let word = waiting.shift(); word !== undefined; word = waiting.shift()) {
    const [, name = word, text] = /^(--[^=]+)=(.*)$/s.exec(word) ?? [];
    if (!word.startsWith('-')) rest.push(word);
    else pairs.push([name, text ?? (TAKES_VALUE.test(name) ? (waiting.shift() ?? '') : '')]);
  }
  return { pairs, rest };
}
