import type { UnitCondition } from './service-unit.ts';
import type { SettingList } from './setting-list.ts';

/** Those of systemd.unit(5) that look at a path. */
const KINDS = [
  ...['PathExists', 'PathIsDirectory', 'PathIsSymbolicLink'],
  ...['FileNotEmpty', 'FileIsExecutable', 'DirectoryNotEmpty'],
];

/** Condition…= and Assert…= of a unit; what is not done is added to `warnings`. */
export function readConditions(
  unit: SettingList,
  expand: (text: string) => string,
  warnings: string[],
): UnitCondition[] {
  return ['Condition', 'Assert'].flatMap((prefix) =>
    KINDS.flatMap((kind) =>
      unit.all(`${prefix}${kind}`).map((value): UnitCondition => {
        const [, marks = '', path = ''] = /^([|!]*)\s*(.*)$/.exec(expand(value)) ?? [];
        if (marks.includes('|')) {
          warnings.push(`${prefix}${kind}=${value}: | is not done, all must hold`);
        }
        return { kind, path, negated: marks.includes('!'), assertion: prefix === 'Assert' };
      }),
    ),
  );
}
