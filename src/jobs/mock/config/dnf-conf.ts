/** The ini dialect of dnf.conf(5) and yum.conf: a value continues in indented lines. */

/** One `[section]`: option to value, lines of a longer value joined by line ends. */
export type DnfSection = ReadonlyMap<string, string>;

/** A dnf.conf: `[main]` and the repositories by id, in their order; equal ids are merged. */
export interface DnfConf {
  readonly main: DnfSection;
  readonly repositories: ReadonlyMap<string, DnfSection>;
  /** Lines that are neither option nor section, unchanged. */
  readonly unknown: readonly string[];
}

/** Parses the text of a dnf.conf. */
export function parseDnfConf(text: string): DnfConf {
  const sections = new Map<string, Map<string, string>>();
  const unknown: string[] = [];
  let section: Map<string, string> | undefined;
  let option: string | undefined;
  for (const line of text.split(/\r?\n/)) {
    const trimmed = line.trim();
    const comment = /^[#;]/.test(trimmed) || /^rem\s/i.test(line);
    if (trimmed === '' || comment) {
      if (trimmed === '') option = undefined;
      continue;
    }
    const header = /^\[([^\]]+)\]/.exec(line);
    if (header?.[1] !== undefined) {
      section = sections.get(header[1]) ?? new Map();
      sections.set(header[1], section);
      option = undefined;
    } else if (/^\s/.test(line) && option !== undefined) {
      section?.set(option, `${section.get(option) ?? ''}\n${trimmed}`);
    } else {
      const pair = /^\s*([^\s=:][^=:]*?)\s*[=:]\s*(.*)$/.exec(line);
      if (pair?.[1] === undefined || section === undefined) {
        unknown.push(trimmed);
        continue;
      }
      option = pair[1];
      section.set(option, (pair[2] ?? '').trim());
    }
  }
  const main = sections.get('main') ?? new Map();
  sections.delete('main');
  return { main, repositories: sections, unknown };
}

/** A list option: separated by blanks, commas or line ends. */
export function listOption(value: string | undefined): string[] {
  return (value ?? '').split(/[\s,]+/).filter(Boolean);
}

/** A boolean option as libdnf reads it; undefined for anything else. */
export function booleanOption(value: string | undefined): boolean | undefined {
  if (value === undefined) return undefined;
  if (/^(?:1|true|yes|on)$/i.test(value)) return true;
  return /^(?:0|false|no|off)$/i.test(value) ? false : undefined;
}
