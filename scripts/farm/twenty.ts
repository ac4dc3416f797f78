/** The chain that pools are tested and measured with. */
import type { SourceSpec } from '../../test/build/source-packages.ts';

/** Packages that are the same whoever builds them, and when. */
export const SAME = [
  ...['-D', 'source_date_epoch_from_changelog 1', '-D', 'use_source_date_epoch_as_buildtime 1'],
  ...['-D', 'clamp_mtime_to_source_date_epoch 1', '-D', '_buildhost kiln'],
];

const CHANGES = '%changelog\n* Thu Jan 01 2026 Nobody <nobody@example.org> - 1-1\n- First\n';

/**
 * Twenty packages, six deep, with diamonds: p1 alone, then rows of four, each of which needs two of the row
 * before, and three that stand alone.
 */
export function twentyPackages(): SourceSpec[] {
  const rows = [
    ['p1'],
    ...[0, 1, 2, 3].map((row) => [2, 3, 4, 5].map((column) => `p${row * 4 + column}`)),
  ];
  const stacked = rows.flatMap((row, depth) =>
    row.map((name, column) => {
      const below = rows[depth - 1] ?? [];
      const needs = new Set([below[column % below.length], below[(column + 1) % below.length]]);
      return {
        name,
        buildRequires: [...needs].flatMap((one) => (one === undefined ? [] : [`${one}-devel`])),
      };
    }),
  );
  const last = { name: 'p18', buildRequires: ['p14-devel', 'p17-devel'] };
  const alone = ['p19', 'p20'].map((name) => ({ name }));
  return [...stacked, last, ...alone].map((spec) => ({
    ...spec,
    build: 'sleep 2',
    sections: CHANGES,
  }));
}
