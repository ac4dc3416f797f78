/** report.html, for people: one file that needs no network. docs/report.md explains it. */
import { stripVTControlCharacters } from 'node:util';
import { counted } from '../counted.ts';
import type { Result } from '../result/schema.ts';
import type { LogFailures } from './ci/findings.ts';
import type { BrowserFiles } from './html.ts';
import { bar, bytesOf, documentOf, duration, type Html, html, timeOf } from './html.ts';
import { replayCommand } from './replay.ts';

export interface ReportLog {
  readonly name: string;
  readonly gzip: Buffer;
  /** For paper and for browsers without scripts. */
  readonly end: readonly string[];
}

export interface ReportParts {
  readonly result: Result;
  readonly logs: readonly ReportLog[];
  readonly packages: readonly string[];
  /** Those of `packages` that are not of the image; undefined where that is not known. */
  readonly added?: readonly string[] | undefined;
  readonly failures?: LogFailures | undefined;
}

const ROWS_MAX = 2000;

export function reportPage(parts: ReportParts, files: BrowserFiles): string {
  const { result, logs } = parts;
  const title = `${titleOf(result)}: ${outcomeOf(result)}`;
  const body = html`${header(result)}
<main>
${cause(parts)}
${timeline(result)}
${samples(result)}
${logs.length === 0 ? undefined : logSection(logs)}
${artifacts(result)}
${packageList(parts)}
${policyOf(result)}
${warnings(result)}
${request(result)}
</main>
${logs.map(({ name, gzip }) => html`<script type="application/gzip" class="log" data-name="${name}">${gzip.toString('base64')}</script>`)}`;
  return documentOf({ title, body, samples: result.samples }, files);
}

function titleOf({ build, request }: Result): string {
  if (build !== undefined) return build.nvr ?? build.name;
  if (Array.isArray(request.argv)) return request.argv.map(String).join(' ').slice(0, 200);
  return typeof request.path === 'string' ? request.path : 'kiln';
}

function outcomeOf({ failure, exit, exitStatus }: Result): string {
  if (failure !== null) return `failed in ${failure.phase}`;
  if (exit !== null && 'signal' in exit) return `ended by ${exit.signal}`;
  return exitStatus === 0 ? 'succeeded' : `exit status ${exitStatus}`;
}

function header(result: Result): Html {
  const { startedAt, durationMs, image, exitStatus, kiln, id } = result;
  const went = exitStatus === 0 ? 'good' : 'bad';
  return html`<header class="${went}">
<h1><span class="outcome">${outcomeOf(result)}</span> ${titleOf(result)}</h1>
<dl>
<div><dt>started</dt><dd>${timeOf(startedAt)}</dd></div>
<div><dt>took</dt><dd>${duration(durationMs)}</dd></div>
<div><dt>exit status</dt><dd>${exitStatus}</dd></div>
<div><dt>image</dt><dd>${image === null ? 'none' : image.name}</dd></div>
<div><dt>sandbox</dt><dd>${id ?? 'none'}</dd></div>
<div><dt>kiln</dt><dd>${kiln}</dd></div>
</dl>
</header>`;
}

function cause({ result, failures }: ReportParts): Html {
  const { failure, exit, limitHit, build } = result;
  const differences = build?.differences ?? [];
  const isPlain = failure === null && limitHit === null && differences.length === 0;
  const isGood = exit === null || ('code' in exit && exit.code === 0);
  if (isPlain && isGood) return html``;
  return html`<section id="cause">
<h2>Cause</h2>
${
  failure === null
    ? isGood
      ? undefined
      : html`<p class="message">The command ${'signal' in exit ? `was ended by ${exit.signal}` : `exited with ${exit.code}`}.</p>`
    : html`<p class="message"><code>${failure.code}</code> ${failure.message}</p>
${failure.causes.map((text) => html`<p class="because">because ${text}</p>`)}`
}
${failures === undefined ? undefined : failureList(failures, '')}
${limitHit === null ? undefined : html`<p>The limit that was in the way: <b>${limitHit}</b>.</p>`}
${failure === null || failure.lastLines.length === 0 ? undefined : html`<ol class="lines" tabindex="0" aria-label="the last lines">${failure.lastLines.map(causeLine)}</ol>`}
${differences.slice(0, ROWS_MAX).map((one) => html`<p class="because">${one.package} ${one.path}: ${one.what}</p>`)}
${failure?.hint === undefined ? undefined : html`<p class="hint">${failure.hint}</p>`}
</section>`;
}

const FAILURES_MAX = 20;

/** Errors with file and line, and failed tests, as a build.log has them. @param page of the log, relative */
export function failureList({ findings, tests }: LogFailures, page: string): Html {
  const link = (at: number) => html`<a href="${page}#build.log:${at}">line ${at}</a>`;
  const lines = [
    ...findings.map(
      ({ at, file, line, column, message }) =>
        html`<li><b>${file}:${line}${column === undefined ? '' : `:${column}`}</b> ${message} ${link(at)}</li>`,
    ),
    ...tests.map(({ at, name }) => html`<li>failed test <b>${name}</b> ${link(at)}</li>`),
  ];
  if (lines.length === 0) return html``;
  const left = lines.length - FAILURES_MAX;
  return html`<ul class="failures">${lines.slice(0, FAILURES_MAX)}${left > 0 ? html`<li>${left} more are in the log</li>` : undefined}</ul>`;
}

const ERROR = /\berror\b|\*\*\*|FAIL|Traceback/i;

export function causeLine(line: string): Html {
  const plain = stripVTControlCharacters(line);
  // A shell with -x shows its commands so: they are no message.
  const isError = ERROR.test(plain) && !/^\++ /.test(plain);
  return html`<li class="${isError ? 'error' : ''}"><code>${plain}</code></li>`;
}

/** A phase that comes again, such as the image with the packages that a build requires, has a number. */
function titleOfPhase(phases: Result['phases'], at: number): string {
  const { name = '' } = phases[at] ?? {};
  const before = phases.slice(0, at).filter((other) => other.name === name).length;
  return before === 0 ? name : `${name} (${before + 1})`;
}

/** By their start. One that comes twice with nothing between, as an image that a build needs no more for, is one. */
function joinedPhases(phases: Result['phases']): Result['phases'] {
  const joined: Result['phases'][number][] = [];
  for (const phase of phases.toSorted((a, b) => a.startMs - b.startMs)) {
    const last = joined.at(-1);
    if (last?.name !== phase.name) joined.push(phase);
    else
      joined[joined.length - 1] = {
        ...last,
        durationMs: phase.startMs + phase.durationMs - last.startMs,
      };
  }
  return joined;
}

function timeline({ phases, durationMs, id }: Result): Html {
  if (phases.length === 0) return html``;
  const ordered = joinedPhases(phases);
  const row = (name: string, startMs: number, lengthMs: number, kind = '') =>
    html`<tr><th scope="row">${name}</th><td class="number">${duration(lengthMs)}</td><td class="track">${bar(startMs, lengthMs, durationMs, kind)}</td></tr>`;
  const from = ordered.find(({ name }) => name === 'sandbox')?.startMs;
  const last = phases.findLast(({ name }) => name === 'destroy');
  const to = last === undefined ? durationMs : last.startMs + last.durationMs;
  return html`<section id="timeline"><h2>Timeline</h2>
<table class="timeline"><tbody>
${ordered.map((phase, at) => row(titleOfPhase(ordered, at), phase.startMs, phase.durationMs))}
${from === undefined || id === null ? undefined : row(`sandbox ${id}`, from, Math.max(0, to - from), 'life')}
</tbody></table></section>`;
}

function samples({ samples: rows, resources }: Result): Html {
  const told = [
    ['processor time', resources.cpuMs === undefined ? undefined : duration(resources.cpuMs)],
    ['most memory', bytesOf(resources.peakMemoryBytes)],
    ['most processes', resources.peakPids],
    ['read from disks', bytesOf(resources.readBytes)],
    ['written to disks', bytesOf(resources.writtenBytes)],
    ['killed for memory', resources.oomKills],
  ] as const;
  const given = told.filter(([, value]) => value !== undefined);
  if (given.length === 0 && rows === undefined) return html``;
  return html`<section id="resources"><h2>Resources</h2>
<dl>${given.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
${rows === undefined ? undefined : html`<div id="plots"></div>`}
</section>`;
}

function logSection(logs: readonly ReportLog[]): Html {
  const main = logs[0];
  return html`<section id="log"><h2>Log</h2>
<div class="bar-of-log"><span class="tabs">${logs.map(({ name }) => html`<button type="button" data-log="${name}">${name}</button>`)}</span>
<select class="parts" aria-label="go to a part of the log"></select><button type="button" class="folds"></button>
<span class="search"><input type="search" placeholder="search" aria-label="search the log"><button type="button" class="previous" aria-label="previous match">↑</button><button type="button" class="next" aria-label="next match">↓</button></span>
<span class="matches" role="status"></span></div>
<div class="viewer" tabindex="0" role="group" aria-label="the log"><div class="height"></div><ol class="rows"></ol></div>
<pre class="end">${main === undefined ? '' : main.end.join('\n')}</pre>
</section>`;
}

function artifacts({ artifacts: list }: Result): Html {
  if (list.length === 0) return html``;
  return html`<section id="artifacts"><h2>Artifacts</h2>
<table><thead><tr><th>file</th><th class="number">size</th><th>sha256</th></tr></thead><tbody>
${list
  .slice(0, ROWS_MAX)
  .map(
    (one) =>
      html`<tr><td>${one.path}${one.target === undefined ? '' : ` → ${one.target}`}</td><td class="number">${one.type === 'file' ? bytesOf(one.size) : one.type}</td><td><code class="digest">${one.sha256}</code></td></tr>`,
  )}
</tbody></table>${more(list.length)}</section>`;
}

function more(count: number): Html | undefined {
  return count > ROWS_MAX ? html`<p>${count - ROWS_MAX} more are in result.json.</p>` : undefined;
}

function packageList({ result, packages, added }: ReportParts): Html {
  const requires = result.build?.buildRequires ?? [];
  if (requires.length === 0 && packages.length === 0) return html``;
  const list = (title: string, names: readonly string[]) =>
    html`<details><summary>${title}</summary><ul class="packages">${names.slice(0, ROWS_MAX).map((one) => html`<li>${one}</li>`)}</ul>${more(names.length)}</details>`;
  return html`<section id="packages"><h2>Buildroot</h2>
<p>Required by the package: ${requires.length === 0 ? 'nothing' : requires.map((one) => html`<code>${one}</code> `)}</p>
${added === undefined ? undefined : list(`${counted(added.length, 'package was', 'packages were')} added for this build`, added)}
${list(`${counted(packages.length, 'package')} in all`, packages)}
</section>`;
}

function policyOf({ policy, refusedCalls = [], refusedPaths = [], egress = [] }: Result): Html {
  if (policy === null) return html``;
  const { limits = {} } = policy;
  const rows = [
    ['user', `${policy.uid}:${policy.gid}, groups ${policy.groups.join(' ') || 'none'}`],
    ['capabilities', policy.capabilities.effective.join(' ') || 'none'],
    ['seccomp', policy.seccomp],
    ['no_new_privs', policy.noNewPrivileges ? 'yes' : 'no'],
    ['Landlock', policy.landlock?.walls.join(', ') ?? 'none'],
    ['label', policy.label?.label ?? 'none'],
    ['namespaces', policy.namespaces.join(' ')],
    ['network interfaces', policy.interfaces.join(' ')],
    ['memory', bytesOf(limits.memory) ?? 'unlimited'],
    ['processors', limits.cpus ?? 'unlimited'],
    ['processes', limits.pids ?? 'unlimited'],
  ] as const;
  return html`<section id="policy"><h2>Isolation</h2>
<p>As measured in the sandbox before the command started.</p>
<table><tbody>${rows.map(([name, value]) => html`<tr><th scope="row">${name}</th><td>${value}</td></tr>`)}</tbody></table>
${refusedCalls.length === 0 ? undefined : html`<h3>Refused system calls</h3><table><tbody>${refusedCalls.map((one) => html`<tr><td><code>${one.syscall}</code></td><td>${one.action}</td><td class="number">${one.count}</td></tr>`)}</tbody></table>`}
${refusedPaths.length === 0 ? undefined : html`<h3>Refused paths</h3><table><tbody>${refusedPaths.map((one) => html`<tr><td><code>${one.path}</code></td><td>${one.syscall}</td><td>${one.error}</td><td class="number">${one.count}</td></tr>`)}</tbody></table>`}
${egress.length === 0 ? undefined : html`<h3>Network, by the proxy</h3><table><tbody>${egress.map((one) => html`<tr><td>${one.host}:${one.port}</td><td>${one.refused ?? `${counted(one.count, 'connection')}, ${bytesOf(one.sentBytes)} out, ${bytesOf(one.receivedBytes)} in`}</td></tr>`)}</tbody></table>`}
</section>`;
}

function warnings({ warnings: list }: Result): Html {
  if (list.length === 0) return html``;
  return html`<section id="warnings"><h2>Warnings</h2><ul>${list.slice(0, ROWS_MAX).map((one) => html`<li><code>${one.code}</code> ${one.message}</li>`)}</ul>${more(list.length)}</section>`;
}

function request(result: Result): Html {
  const again = replayCommand(result);
  return html`<section id="request"><h2>Again</h2>
${again === undefined ? undefined : html`<pre class="command">${again}</pre>`}
<details><summary>everything that was asked for</summary><pre>${JSON.stringify(result.request, undefined, 2)}</pre></details>
</section>`;
}
