/** What CI services read in the output of a job: groups, annotations, a summary. */
import { randomUUID } from 'node:crypto';
import type { Result } from '../../result/schema.ts';
import type { Finding } from './findings.ts';

/** Values of `--ci`. */
export const CI_CHOICES = ['auto', 'github', 'gitlab', 'none'] as const;
export type CiChoice = (typeof CI_CHOICES)[number];

/** How one service is talked to. Every text ends with a line end. */
export interface CiProvider {
  readonly name: 'github' | 'gitlab';
  /** Begins and ends a part of the output that a reader can fold. */
  group(name: string): string;
  endGroup(name: string): string;
  /** Around what strangers print: nothing of it is taken for an order to the service. */
  readonly untrusted: { readonly begin: string; readonly end: string };
  annotate(finding: Finding): string;
  failure(result: Result): string;
}

/** Annotations of a kind that GitHub shows for one step. */
export const ANNOTATIONS_MAX = 10;

/** The service that `--ci` means; undefined for none. */
export function ciProvider(
  choice: CiChoice,
  env: Readonly<Record<string, string | undefined>>,
): CiProvider | undefined {
  const isOn = (name: string) => env[name] === 'true';
  const found =
    choice === 'auto'
      ? isOn('GITHUB_ACTIONS')
        ? 'github'
        : isOn('GITLAB_CI')
          ? 'gitlab'
          : ''
      : choice;
  return found === 'github' ? github() : found === 'gitlab' ? gitlab() : undefined;
}

/** Workflow commands: https://docs.github.com/actions/reference/workflow-commands-for-github-actions */
function github(): CiProvider {
  const token = randomUUID();
  return {
    name: 'github',
    group: (name) => `::group::${data(name)}\n`,
    endGroup: () => '::endgroup::\n',
    untrusted: { begin: `::stop-commands::${token}\n`, end: `\n::${token}::\n` },
    annotate: ({ severity, file, line, column, message }) => {
      const at = column === undefined ? '' : `,col=${column}`;
      return `::${severity} file=${property(file)},line=${line}${at}::${data(message)}\n`;
    },
    failure: ({ failure, build }) =>
      failure === null
        ? ''
        : `::error title=${property(`${build?.name ?? 'kiln'}: ${failure.phase}`)}::${data(failure.message)}\n`,
  };
}

function data(text: string): string {
  return text.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A');
}

function property(text: string): string {
  return data(text).replaceAll(':', '%3A').replaceAll(',', '%2C');
}

/** Sections of job logs: https://docs.gitlab.com/ci/jobs/job_logs/#custom-collapsible-sections */
function gitlab(): CiProvider {
  const clear = '\u001b[0K';
  const now = () => Math.floor(Date.now() / 1000);
  const id = (name: string) => `kiln_${name.replace(/[^\w.-]/g, '_')}`;
  return {
    name: 'gitlab',
    group: (name) =>
      `${clear}section_start:${now()}:${id(name)}[collapsed=true]\r${clear}${name}\n`,
    endGroup: (name) => `${clear}section_end:${now()}:${id(name)}\r${clear}\n`,
    untrusted: { begin: '', end: '' },
    annotate: () => '',
    failure: () => '',
  };
}

/** Markdown for GitHub's summary of a step. What strangers wrote stands in code, where nothing is markup. */
export function summary({ failure, build, durationMs, phases, request }: Result): string {
  const name = build?.name ?? (Array.isArray(request.argv) ? request.argv.join(' ') : 'kiln');
  const how = failure === null ? 'succeeded' : `failed in ${failure.phase}`;
  const lines = [`### ${code(name)} ${how}`, ''];
  if (failure !== null) {
    lines.push(`${code(failure.message)} (${failure.code})`, '');
    if (failure.lastLines.length > 0) lines.push(...fence(failure.lastLines), '');
    if (failure.hint !== undefined) lines.push(`${code(failure.hint)}`, '');
  }
  const packages = build?.packages ?? [];
  if (packages.length > 0) {
    lines.push('| package | sha256 |', '| --- | --- |');
    for (const { file, sha256 } of packages) lines.push(`| ${code(file)} | \`${sha256}\` |`);
    lines.push('');
  }
  const times = phases.map((phase) => `${phase.name} ${(phase.durationMs / 1000).toFixed(1)} s`);
  lines.push(`${(durationMs / 1000).toFixed(1)} s: ${times.join(', ')}`, '');
  return `${lines.join('\n')}\n`;
}

function code(text: string): string {
  const plain = text.replace(/[\n\r|]/g, ' ').slice(0, 500);
  const ticks = '`'.repeat(
    1 + Math.max(0, ...[...plain.matchAll(/`+/g)].map(([run]) => run.length)),
  );
  return `${ticks} ${plain} ${ticks}`;
}

function fence(lines: readonly string[]): string[] {
  const longest = Math.max(
    2,
    ...lines.flatMap((line) => [...line.matchAll(/`+/g)].map(([run]) => run.length)),
  );
  const ticks = '`'.repeat(longest + 1);
  return [ticks, ...lines, ticks];
}
