/** One setting of a unit file, as written: specifiers and quotes still in it. */
export interface UnitSetting {
  readonly section: string;
  readonly key: string;
  readonly value: string;
  readonly file: string;
  /** Counted from 1. */
  readonly line: number;
}

/** The settings of one file, in order, and what is wrong with it, with the place. */
interface ParsedUnitFile {
  readonly settings: readonly UnitSetting[];
  readonly complaints: readonly string[];
}

/** Logical lines: continued ones joined, comments dropped, also those between continued lines. */
function* logicalLines(text: string): Generator<{ readonly line: number; readonly text: string }> {
  let pending = '';
  let start = 0;
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.replace(/^[ \t]+/, '').replace(/\r$/, '');
    if (line.startsWith('#') || line.startsWith(';')) continue;
    if (pending === '') start = index + 1;
    if (/\\$/.test(line)) {
      pending += `${line.slice(0, -1)} `;
      continue;
    }
    const whole = pending + line;
    pending = '';
    if (whole.trim() !== '') yield { line: start, text: whole.trim() };
  }
  if (pending.trim() !== '') yield { line: start, text: pending.trim() };
}

/** Reads the text of a unit file or of a drop-in, by systemd.syntax(7). Never throws. */
export function parseUnitFile(file: string, text: string): ParsedUnitFile {
  const settings: UnitSetting[] = [];
  const complaints: string[] = [];
  let section: string | undefined;
  for (const { line, text: content } of logicalLines(text)) {
    if (content.startsWith('[')) {
      section = content.endsWith(']') ? content.slice(1, -1) : undefined;
      if (section === undefined) complaints.push(`${file}:${line}: no section: ${content}`);
      continue;
    }
    const equals = content.indexOf('=');
    if (equals < 1) {
      complaints.push(`${file}:${line}: no setting: ${content.slice(0, 60)}`);
      continue;
    }
    if (section === undefined) {
      complaints.push(`${file}:${line}: a setting outside of a section: ${content}`);
      continue;
    }
    const key = content.slice(0, equals).trimEnd();
    const value = content.slice(equals + 1).trimStart();
    settings.push({ section, key, value, file, line });
  }
  return { settings, complaints };
}
