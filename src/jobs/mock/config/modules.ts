import { booleanOption, type DnfSection } from './dnf-conf.ts';
import { configError, type Place } from './language/problem.ts';
import type { Templates } from './language/template.ts';
import { asText, type ConfigValue, isList } from './language/values.ts';
import type { RecipeInput } from './recipe.ts';

/** What mock runs: `dnf module ACTION SPEC…`. */
type Command = readonly [action: string, specs: readonly string[]];

/**
 * The module request of a configuration in a recipe's terms; undefined if it has none. As in mock,
 * `module_setup_commands` stands in for `module_enable` and `module_install`.
 * @param main dnf.conf's section, of which `module_platform_id` counts
 * @throws KilnError E_MOCK_CONFIG for an action that is not understood.
 */
export function readModules(
  templates: Templates,
  main: DnfSection,
  place: Place | undefined,
): RecipeInput['modules'] {
  const setup = list(templates.value('module_setup_commands')).map((command): Command => {
    const [action = '', ...specs] = list(command).flatMap((word) => asText(word).split(/[\s,]+/));
    return [action, specs.filter(Boolean)];
  });
  const plain: Command[] = [
    ['enable', words(templates.value('module_enable'))],
    ['install', words(templates.value('module_install'))],
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
      // The last request for a module counts.
      const [name] = spec.split(/[:/]/);
      for (const others of Object.values(wanted)) {
        for (const other of others) if (other.split(/[:/]/)[0] === name) others.delete(other);
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
