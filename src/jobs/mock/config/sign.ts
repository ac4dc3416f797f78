import { shellWords } from '../../../shell-words.ts';
import type { Templates } from './language/template.ts';
import { asText, isDict, isTrue } from './language/values.ts';

/** The key that mock's plugin sign has rpmsign sign with. */
export interface SignPlugin {
  /** As gpg finds it; undefined: what the host's own rpm macros say. */
  readonly name: string | undefined;
  /** gpg's home, where it is not the caller's. */
  readonly home: string | undefined;
}

/** What takes a word after it, and what stands for nothing but signing. */
const DEFINE = /^(?:-D|--define)$/;
const PLAIN = new Set(['--addsign', '--resign', '%(rpms)s']);

/**
 * What the plugin is told to do. The command is not run: kiln signs by itself, so only rpmsign with a
 * key is understood.
 * @returns undefined where it is off; `other` for any other command
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
  // mock fills it in with Python's % operator.
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
