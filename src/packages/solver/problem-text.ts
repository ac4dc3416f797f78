/** Problems as an indented list; the lines of one problem belong together. */
export function problemText(problems: readonly (readonly string[])[]): string {
  const item = (lines: readonly string[]) =>
    lines.map((line, index) => `${index === 0 ? '  - ' : '    '}${line}`).join('\n');
  return problems.map(item).join('\n');
}
