/**
 * `NAME VALUE` of a macro to define, with or without the percent sign that some callers write, as
 * rpmbuild's --define takes it; undefined for what is none.
 */
export function macroDefinition(text: string): string | undefined {
  const match = /^\s*%?([A-Za-z_]\w*(?:\(.*?\))?)\s+([\s\S]*)$/.exec(text);
  return match === null ? undefined : `${match[1]} ${match[2]}`;
}
