/** GitLab's code quality report: https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format */
import { createHash } from 'node:crypto';
import type { Finding } from './findings.ts';

/** The JSON of the file. A finding keeps its fingerprint while its file, tool and text stay: lines move. */
export function codeQuality(findings: readonly Finding[]): string {
  const seen = new Map<string, number>();
  const issues = findings.map(({ tool, severity, file, line, message }) => {
    const identity = JSON.stringify([tool, file, message]);
    const count = seen.get(identity) ?? 0;
    seen.set(identity, count + 1);
    return {
      description: message,
      check_name: checkName(tool, message),
      fingerprint: createHash('sha256').update(`${identity}${count}`).digest('hex'),
      severity: severity === 'error' ? 'major' : 'minor',
      location: { path: file, lines: { begin: line } },
    };
  });
  return `${JSON.stringify(issues, undefined, 2)}\n`;
}

/** rpmlint's first word; a compiler's option, as in `[-Wunused-variable]`. */
function checkName(tool: Finding['tool'], message: string): string {
  if (tool === 'rpmlint') return message.split(' ')[0] ?? tool;
  return /\[(-W[\w=+-]+)\]$/.exec(message)?.[1] ?? tool;
}
