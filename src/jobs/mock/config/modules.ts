import { globExpression } from '../../../packages/solver/match.ts';
import type { ImageRecipeInput } from '../../../recipe/image-recipe.ts';
import { booleanOption } from './dnf-options.ts';
import { splitOptions } from './package-manager.ts';
import type { DnfSection } from './repositories.ts';
import {
  asText,
  type ConfigOptions,
  type ConfigValue,
  commandWords,
  configError,
  isList,
  type Place,
} from './values.ts';

type Command = readonly [action: string, specs: readonly string[]];

/**
 * The module request of a configuration in a recipe's terms; undefined if it has none. As in mock,
 * `module_setup_commands` stands in for `module_enable` and `module_install`.
 * @param main dnf.conf's section, for `module_platform_id` and `module_obsoletes`
 * @throws KilnError E_MOCK_CONFIG for an unknown action
 */
export function readModules(
  options: ConfigOptions,
  main: DnfSection,
  place: Place | undefined,
): ImageRecipeInput['modules'] {
  const setup = list(options.value('module_setup_commands')).map((command): Command => {
    const [action = '', ...specs] = words(command);
    return [action, specs];
  });
  const plain: Command[] = [
    ['enable', words(options.value('module_enable'))],
    ['install', words(options.value('module_install'))],
  ];
  const wanted = {
    enable: new Set<string>(),
    disable: new Set<string>(),
    install: new Set<string>(),
  };
  for (const [action, specs] of setup.length > 0 ? setup : plain) {
    if (action !== 'enable' && action !== 'disable' && action !== 'install' && action !== 'reset') {
      throw configError(`module_setup_commands: ${action} is not understood`, place, {
        hint: 'it is enable, disable, install or reset',
      });
    }
    for (const spec of specs) {
      // The last request for a module counts; of what is enabled, the profile may be installed later.
      const isSame = globExpression(moduleOf(spec));
      const undone =
        action === 'enable' || action === 'install' ? [wanted.disable] : Object.values(wanted);
      for (const others of undone) {
        for (const other of others) if (isSame.test(moduleOf(other))) others.delete(other);
      }
      if (action !== 'reset') wanted[action].add(spec);
    }
  }
  const platform = main.get('module_platform_id')?.replace(/^platform:/, '');
  const obsoletes = booleanOption(main.get('module_obsoletes'));
  const said = Object.values(wanted).some(({ size }) => size > 0);
  if (!said && !platform && obsoletes !== true) return undefined;
  return {
    enable: [...wanted.enable],
    disable: [...wanted.disable],
    install: [...wanted.install],
    ...(obsoletes === true ? { obsoletes } : {}),
    ...(platform ? { platform } : {}),
  };
}

function words(value: ConfigValue): string[] {
  return list(value)
    .flatMap((word) => asText(word).split(/[\s,]+/))
    .filter(Boolean);
}

function list(value: ConfigValue): readonly ConfigValue[] {
  if (value === null || value === undefined || value === '') return [];
  return isList(value) ? value : [value];
}

function moduleOf(spec: string): string {
  return spec.split(/[:/]/, 1).join();
}

interface PackageList {
  readonly packages: readonly string[];
  readonly groups: readonly string[];
}

/**
 * The packages of `chroot_setup_cmd`: `install @buildsys-build foo`, `groupinstall build`, `group install
 * build`, as one text or a list of words. @throws KilnError E_MOCK_CONFIG for any other command.
 */
export function readSetupCommand(value: ConfigValue, place: Place | undefined): PackageList {
  const given = commandWords(value);
  // withCommonOptions() has the options.
  const [command, ...rest] = splitOptions(given).rest;
  if (command === 'install') return sortWords(rest);
  if (command === 'groupinstall') return { packages: [], groups: rest };
  if (command === 'group' && rest[0] === 'install') return { packages: [], groups: rest.slice(1) };
  const what = `chroot_setup_cmd ${JSON.stringify(given.join(' '))} is not understood`;
  throw configError(what, place, {
    hint: 'it is `install PACKAGE… @GROUP…` or `groupinstall GROUP…`',
  });
}

export function sortWords(words: readonly string[]): PackageList {
  return {
    packages: words.filter((word) => !word.startsWith('@')),
    groups: words.filter((word) => word.startsWith('@')).map((word) => word.slice(1)),
  };
}
