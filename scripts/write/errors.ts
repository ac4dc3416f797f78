/** Writes docs/errors.md, docs/warnings.md and docs/exit-status.md from the tables of src; a test compares. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { EXIT_STATUSES } from '../../src/cli/options/exit-statuses.ts';
import { exitStatus } from '../../src/cli/output/errors.ts';
import { CODES_BY_PAGE, type ErrorCode, WARNINGS_BY_PAGE } from '../../src/error-codes.ts';
import { KilnError } from '../../src/errors.ts';
import { mockStatus } from '../../src/jobs/mock/outcome.ts';
import { buildStatus } from '../../src/jobs/rpmbuild/outcome/outcome.ts';

export const DOCS = join(import.meta.dirname, '../../docs');

const ERRORS = `<!-- Written by scripts/write/errors.ts from src/error-codes.ts. Do not edit. -->
# Error codes

Every failure of kiln has a code. On standard error the first line of the message ends with it,
\`kiln: MESSAGE [E_CODE]\`; \`result.json\` has it in \`failure.code\`, \`kiln rpm … --json\` in \`error.code\`, the API in
\`code\` of its error. The table says what it means. A code keeps its meaning; the text of a message may change.
The columns on the right are exit statuses ([exit-status.md](exit-status.md)), where they are not the usual ones: 125
for \`kiln\` and \`kiln build\`, 1 for \`kiln-mock\`.

| code | what it means | see | \`kiln\` | \`kiln build\` | \`kiln-mock\` |
| --- | --- | --- | --- | --- | --- |
`;

const WARNINGS = `<!-- Written by scripts/write/errors.ts from src/error-codes.ts. Do not edit. -->
# Codes of warnings

A warning ends no work and changes no exit status. On standard error it is a line that ends with its code,
\`kiln: warning: MESSAGE [code]\`; \`result.json\` has those of a run or a build in \`warnings\`, each with \`code\`,
\`message\` and, of a file, \`path\`. A code keeps its meaning; the text of a message may change.

| code | what happened | see |
| --- | --- | --- |
`;

const STATUSES = `<!-- Written by scripts/write/errors.ts from src/cli/options/exit-statuses.ts. Do not edit. -->
# Exit statuses

Where nothing else is said, 0 is success, and 125 is a failure of kiln's own: the message on standard error says what
failed, why, and what to do. [errors.md](errors.md) has the status of each error code. If a command itself exits with
one of kiln's statuses, \`failure\` in [result.json](result.md) tells the difference.

\`kiln shell\`, \`kiln exec\`, \`kiln service execute\` and \`kiln service connect\` have the statuses of \`kiln run\`.
\`kiln wait\` and \`kiln attach\` have that of the job.

Where nobody reads standard output any more (\`… | head -1\`), \`kiln run\` ends with 141, as SIGPIPE ends a program; a
build goes on without a reader.

| command | status | meaning |
| --- | --- | --- |
`;

/** The exit statuses of kiln, `kiln build` and kiln-mock for a code. */
export function statusesOf(code: ErrorCode): { kiln: number; build: number; mock: number } {
  const error = new KilnError(code, '');
  return { kiln: exitStatus(error), build: buildStatus(error), mock: mockStatus(error) };
}

/** The rows of codes, by the alphabet. */
function codeRows(
  pages: Readonly<Record<string, Readonly<Record<string, string>>>>,
  more: (code: string) => readonly string[] = () => [],
): string {
  const all = Object.entries(pages).flatMap(([page, codes]) =>
    Object.entries(codes).map(([code, meaning]) => ({ code, meaning, page })),
  );
  const rows = all
    .sort((one, other) => (one.code < other.code ? -1 : 1))
    .map(({ code, meaning, page }) =>
      row(`\`${code}\``, meaning, `[${page.replace('.md', '')}](${page})`, ...more(code)),
    );
  return rows.join('');
}

function row(...cells: readonly string[]): string {
  return `|${cells.map((cell) => (cell === '' ? ' ' : ` ${cell} `)).join('|')}|\n`;
}

function unusual(code: string): string[] {
  const { kiln, build, mock } = statusesOf(code as ErrorCode);
  return [kiln === 125 ? 0 : kiln, build === 125 ? 0 : build, mock === 1 ? 0 : mock].map(
    (status) => (status === 0 ? '' : String(status)),
  );
}

function statusRows(): string {
  const rows = Object.entries(EXIT_STATUSES).flatMap(([command, statuses]) =>
    statuses.map(([status, meaning], index) =>
      row(index === 0 ? `\`${command}\`` : '', String(status), meaning),
    ),
  );
  return rows.join('');
}

/** The pages, by their names in docs. */
export function pages(): Readonly<Record<string, string>> {
  return {
    'errors.md': ERRORS + codeRows(CODES_BY_PAGE, unusual),
    'warnings.md': WARNINGS + codeRows(WARNINGS_BY_PAGE),
    'exit-status.md': STATUSES + statusRows(),
  };
}

if (import.meta.main) {
  for (const [name, text] of Object.entries(pages())) writeFileSync(join(DOCS, name), text);
}
