import { KilnError } from '../../../errors.ts';
import { evaluate } from './language/evaluate.ts';
import { parse } from './language/parse.ts';
import { asText, ConfigOptions, type ConfigValue, isDict, isList } from './language/values.ts';

/** The command line's settings of plugins. */
export interface PluginSwitches {
  readonly disabled: readonly string[];
  readonly enabled: readonly string[];
  /** `--plugin-option`, each PLUGIN:KEY=VALUE. */
  readonly settings: readonly string[];
}

/**
 * Applies `--disable-plugin`, `--enable-plugin` and `--plugin-option` in mock's order: enabling wins over
 * disabling, and an option alone enables nothing. @throws KilnError E_MOCK_USAGE for an unknown plugin.
 */
export function switchPlugins(options: ConfigOptions, switches: PluginSwitches): void {
  const conf = pluginConf(options);
  const known = knownPlugins(options);
  const check = (name: string, option: string) => {
    if (known.includes(name)) return;
    throw usageError(`${option}: there is no plugin ${name}`, `mock's are ${known.join(', ')}`);
  };
  for (const name of switches.disabled) {
    check(name, `--disable-plugin ${name}`);
    conf.set(`${name}_enable`, false);
  }
  for (const name of switches.enabled) {
    check(name, `--enable-plugin ${name}`);
    conf.set(`${name}_enable`, true);
  }
  for (const text of switches.settings) {
    const [, name, key, value = ''] = /^([^:]+):([^=]+)=(.*)$/s.exec(text) ?? [];
    if (name === undefined || key === undefined) {
      throw usageError(`--plugin-option ${text}: it is written PLUGIN:KEY=VALUE`);
    }
    check(name, `--plugin-option ${text}`);
    const before = conf.get(`${name}_opts`);
    const settings = new Map(isDict(before) ? before : []);
    conf.set(`${name}_opts`, settings.set(key, literal(value)));
  }
}

function pluginConf(options: ConfigOptions) {
  const conf = options.get('plugin_conf');
  if (isDict(conf)) return conf;
  const made = new Map<string, ConfigValue>();
  options.set('plugin_conf', made);
  return made;
}

/** mock's plugins, and those that the configuration adds. */
function knownPlugins(options: ConfigOptions): string[] {
  const plugins = options.get('plugins');
  return isList(plugins) ? plugins.map(asText) : [];
}

/** A Python literal; other text stands for itself. */
function literal(text: string): ConfigValue {
  const options = new ConfigOptions();
  try {
    evaluate(parse(`config_opts['value'] = ${text}`, ''), {
      options,
      file: '',
      include: () => undefined,
      warn: () => undefined,
    });
  } catch {
    return text;
  }
  return options.get('value');
}

function usageError(message: string, hint?: string): KilnError {
  return new KilnError('E_MOCK_USAGE', message, { hint });
}
