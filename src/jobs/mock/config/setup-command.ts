import { configError, type Place } from './language/problem.ts';
import { asText, type ConfigValue, isList } from './language/values.ts';

/** Packages and comps groups. */
export interface PackageList {
  readonly packages: readonly string[];
  readonly groups: readonly string[];
}

/**
 * The packages of `chroot_setup_cmd`: `install @buildsys-build foo`, `groupinstall build`, `group install
 * build`, as one text or a list of words. @throws KilnError E_MOCK_CONFIG for any other command.
 */
export function readSetupCommand(value: ConfigValue, place: Place | undefined): PackageList {
  const words = (isList(value) ? value.map(asText) : asText(value).split(/\s+/)).filter(Boolean);
  // Options are for the package manager, which does not run.
  const [command, ...rest] = words.filter((word) => !word.startsWith('-'));
  if (command === 'install') return sortWords(rest);
  if (command === 'groupinstall') return { packages: [], groups: rest };
  if (command === 'group' && rest[0] === 'install') return { packages: [], groups: rest.slice(1) };
  throw configError(
    `chroot_setup_cmd ${JSON.stringify(words.join(' '))} is not understood`,
    place,
    {
      hint: 'it is `install PACKAGE… @GROUP…` or `groupinstall GROUP…`',
    },
  );
}

/** Separates `@group` from packages. */
export function sortWords(words: readonly string[]): PackageList {
  return {
    packages: words.filter((word) => !word.startsWith('@')),
    groups: words.filter((word) => word.startsWith('@')).map((word) => word.slice(1)),
  };
}
