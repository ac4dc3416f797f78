/** Writes docs/errors.md from src/error-codes.ts; a test compares. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mockStatus } from '../src/cli/mock/exit-status.ts';
import { exitStatus } from '../src/cli/output/exit-status.ts';
import { CODES_BY_PAGE, type ErrorCode } from '../src/error-codes.ts';
import { KilnError } from '../src/errors.ts';
import { buildStatus } from '../src/jobs/rpmbuild/outcome/exit-status.ts';

export const DOCS = join(import.meta.dirname, '../docs');
export const ERRORS_PAGE = join(DOCS, 'errors.md');

const HEAD = `<!-- Written by scripts/write-errors.ts from src/error-codes.ts. Do not edit. -->
# Error codes

Every failure of kiln has a code. \`result.json\` has it in \`failure.code\`, \`kiln rpm … --json\` in
\`error.code\`. A code keeps its meaning; the text of a message may change.

The columns on the right are exit statuses, where they are not the usual ones: 125 for \`kiln\` and
\`kiln build\`, 1 for \`kiln-mock\`.

| code | what it means | see | \`kiln\` | \`kiln build\` | \`kiln-mock\` |
| --- | --- | --- | --- | --- | --- |
`;

/** The exit statuses of kiln, `kiln build` and kiln-mock for a code; empty for the usual one. */
function statuses(code: ErrorCode): string[] {
  const error = new KilnError(code, '');
  const unusual = (status: number, usual: number) => (status === usual ? '' : String(status));
  return [
    unusual(exitStatus(error), 125),
    unusual(buildStatus(error), 125),
    unusual(mockStatus(error), 1),
  ];
}

/** The text of docs/errors.md: a row for each code, by the alphabet. */
export function errorsPage(): string {
  const all = Object.entries(CODES_BY_PAGE).flatMap(([page, codes]) =>
    Object.entries(codes).map(([code, meaning]) => ({ code, meaning, page })),
  );
  const rows = all
    .sort((one, other) => (one.code < other.code ? -1 : 1))
    .map(({ code, meaning, page }) => {
      const link = `[${page.replace('.md', '')}](${page})`;
      const cells = [`\`${code}\``, meaning, link, ...statuses(code as ErrorCode)];
      return `|${cells.map((cell) => (cell === '' ? ' ' : ` ${cell} `)).join('|')}|\n`;
    });
  return HEAD + rows.join('');
}

if (import.meta.main) writeFileSync(ERRORS_PAGE, errorsPage());
