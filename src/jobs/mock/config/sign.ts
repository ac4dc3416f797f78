import { shellWords } from '../../../shell-words.ts';
import type { Templates } from './language/template.ts';
import { asText, isDict, isTrue } from './language/values.ts';

/** The key of mock's plugin sign. */
export interface SignPlugin {
  /** The key's name for gpg; undefined for the one in the host's rpm macros. */
  readonly name: string | undefined;
  /** gpg's home, if it is not the caller's. */
  readonly home: string | undefined;
}

/** Options with a word after them, and words that only mean signing. */
const DEFINE = /^(?:-D|--define)$/;
const PLAIN = new Set(['--addsign', '--resign', '%(rpms)s']);

/**
 * The plugin's key. The command does not run, because kiln signs itself; only rpmsign with a key is supported.
 * @returns undefined if it is off; `other` for any other command
 */
export function signPlugin(templates: Templates): SignPlugin | 'other' | undefined {
  const conf = templates.value('plugin_conf');
  if (!isDict(conf) || !isTrue(conf.get('sign_enable'))) return undefined;
  const settings = conf.get('sign_opts');
  if (!isDict(settings)) return { name: undefined, home: undefined };
  const command = asText(settings.get('cmd') ?? 'rpmsign');
  if (!/^(?:\/usr\/bin\/)?(?:rpmsign|rpm)$/.test(command)) return 'other';
  return readOptions(asText(settings.get('opts') ?? '--addsign %(rpms)s'));
}

function readOptions(text: string): SignPlugin | 'other' {
  let name: string | undefined;
  let home: string | undefined;
  // mock fills the command in with Python's % operator.
  const words = shellWords(text).map((word) => word.replaceAll('%%', '%'));
  for (let at = 0; at < words.length; at++) {
    const word = words[at] ?? '';
    if (PLAIN.has(word)) continue;
    const keyId = /^--key-id(?:=(.+))?$/.exec(word);
    if (keyId !== null) {
      name = keyId[1] ?? words[++at];
      continue;
    }
    const attached = /^(?:--define=|-D)(.+)$/s.exec(word)?.[1];
    const define = DEFINE.test(word) ? words[++at] : attached;
    const [, macro, value] = /^\s*%?_gpg_(name|path)\s+(.+?)\s*$/s.exec(define ?? '') ?? [];
    if (macro === 'name') name = value;
    else if (macro === 'path') home = value;
    else return 'other';
  }
  return { name, home };
}
