/** Columns of what stands above and below the options of a command's help. */
export const WIDTH = 80;

/** How far in the rest of a command stands. */
const INDENT = '      ';

/** Prose between empty lines is filled; a command, which is indented, is continued where it is too long. */
export function filled(text: string): string {
  const lines: string[] = [];
  let prose: string[] = [];
  const flush = () => {
    // A number stays with the word that it counts.
    if (prose.length > 0) lines.push(...wrapped(prose.join(' ').split(/(?<!\d) /), WIDTH));
    prose = [];
  };
  for (const line of text.split('\n')) {
    if (/^\S/.test(line)) {
      prose.push(line);
      continue;
    }
    flush();
    lines.push(...(line.length > WIDTH ? continued(line) : [line]));
  }
  flush();
  return lines.join('\n');
}

export function wrapped(words: readonly string[], width: number): string[] {
  const [first = '', ...rest] = words;
  const lines = [first];
  for (const word of rest) {
    const longer = `${lines.at(-1)} ${word}`;
    if (longer.length > width) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

/** As a shell reads it: what is quoted is one word, and an option stays with its value. */
function continued(commands: string): string[] {
  const words =
    commands.match(/-\S* (?=[^-#\s])(?:'[^']*'|"[^"]*"|\S)+|(?:'[^']*'|"[^"]*"|\S)+/g) ?? [];
  const lines: string[] = [];
  let command: string[] = [];
  const end = (after: string) => {
    const parts = wrapped(command, WIDTH - INDENT.length - ' \\'.length);
    lines.push(`  ${parts.join(` \\\n${INDENT}`)}${after}`);
    command = [];
  };
  for (const word of words) {
    command.push(word.replace(/;$/, ''));
    if (word.endsWith(';')) end('');
    else if (word === '&&') end(' \\');
  }
  end('');
  return lines;
}
