import { splitWords } from './words.ts';

const ASSIGNMENT = /^([A-Za-z_][A-Za-z0-9_]*)=([\s\S]*)$/;

/** The assignments of `Environment=`: words of the form NAME=VALUE. Others are left out. */
export function parseAssignments(value: string): [string, string][] {
  return (splitWords(value) ?? []).flatMap(({ text }): [string, string][] => {
    const [, name, content] = ASSIGNMENT.exec(text) ?? [];
    return name === undefined || content === undefined ? [] : [[name, content]];
  });
}

/**
 * The variables of an environment file (systemd.exec(5), EnvironmentFile=): lines NAME=VALUE as a
 * shell would read them, without any expansion; comments begin with # or ;.
 */
export function parseEnvironmentFile(text: string): [string, string][] {
  const variables: [string, string][] = [];
  const joined = text.replace(/\\\n/g, '');
  for (const line of joined.split('\n')) {
    const content = line.trim();
    if (content === '' || /^[#;]/.test(content)) continue;
    const [, name, value] = ASSIGNMENT.exec(content.replace(/^export\s+/, '')) ?? [];
    if (name === undefined || value === undefined) continue;
    variables.push([name, unquoted(value.trim())]);
  }
  return variables;
}

/** Takes quotes off parts of a value, and backslashes that shells would. */
function unquoted(value: string): string {
  let result = '';
  let quote = '';
  for (let at = 0; at < value.length; at++) {
    const char = value[at]!;
    if (quote === "'") {
      if (char === "'") quote = '';
      else result += char;
    } else if (char === '\\' && at + 1 < value.length) {
      const next = value[++at]!;
      result += quote === '"' && !/["\\$`]/.test(next) ? `\\${next}` : next;
    } else if (quote === '"') {
      if (char === '"') quote = '';
      else result += char;
    } else if (char === '"' || char === "'") quote = char;
    else result += char;
  }
  return result;
}
