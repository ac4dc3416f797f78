/** report.html: what came of a job, for people. One file that needs no network; docs/report.md explains it. */
import { createHash } from 'node:crypto';
import { stripVTControlCharacters } from 'node:util';
import type { Result } from '../result/schema.ts';
import type { BrowserFiles } from './browser-files.ts';
import { type Html, html } from './html.ts';
import { replayCommand } from './replay.ts';

/** A log as the page has it. */
export interface ReportLog {
  /** Its file's name. */
  readonly name: string;
  /** Its text, compressed by gzip; the page unpacks it. */
  readonly gzip: Buffer;
  /** How many bytes of its beginning are left out; 0: it is whole. */
  readonly leftOut: number;
  /** Its last lines, for paper and for browsers without scripts. */
  readonly end: readonly string[];
}

/** What a report is made of. */
export interface ReportParts {
  readonly result: Result;
  readonly logs: readonly ReportLog[];
  /** The packages of the buildroot, as installed_pkgs.log lists them. */
  readonly packages: readonly string[];
}

/** Rows of one table; the rest is in result.json. */
const ROWS_MAX = 2000;

/** The page, whole. */
export function reportPage(parts: ReportParts, files: BrowserFiles): string {
  const { result, logs, packages } = parts;
  const title = `${titleOf(result)}: ${outcomeOf(result)}`;
  const scripts = [...(result.samples === undefined ? [] : [files.plotScript]), files.script];
  const styles = [files.style, ...(result.samples === undefined ? [] : [files.plotStyle])];
  // Only these scripts and styles, and nothing from elsewhere: https://www.w3.org/TR/CSP3/
  const policy = [
    "default-src 'none'",
    `script-src ${scripts.map(sourceDigest).join(' ')}`,
    `style-src ${styles.map(sourceDigest).join(' ')}`,
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ');
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
${styles.map((text) => ({ html: `<style>${text}</style>` }))}
</head>
<body>
${header(result)}
<main>
${cause(result)}
${timeline(result)}
${samples(result)}
${logs.length === 0 ? undefined : logSection(logs)}
${artifacts(result)}
${packageList(result, packages)}
${policyOf(result)}
${warnings(result)}
${request(result)}
</main>
${logs.map(({ name, gzip, leftOut }) => html`<script type="application/gzip" class="log" data-name="${name}" data-left-out="${leftOut}">${gzip.toString('base64')}</script>`)}
<script type="application/json" id="samples">${{ html: scriptJson(result.samples ?? null) }}</script>
${scripts.map((text) => ({ html: `<script>${text}</script>` }))}
</body>
</html>
`;
  return page.html;
}

/** JSON that ends no script element. */
function scriptJson(value: unknown): string {
  return JSON.stringify(value).replaceAll('<', '\\u003c');
}

function sourceDigest(text: string): string {
  return `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
}

function titleOf({ build, request }: Result): string {
  if (build !== undefined) return build.name;
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
<div><dt>started</dt><dd><time>${startedAt}</time></dd></div>
<div><dt>took</dt><dd>${duration(durationMs)}</dd></div>
<div><dt>exit status</dt><dd>${exitStatus}</dd></div>
<div><dt>image</dt><dd>${image === null ? 'none' : image.name}</dd></div>
<div><dt>sandbox</dt><dd>${id ?? 'none'}</dd></div>
<div><dt>kiln</dt><dd>${kiln}</dd></div>
</dl>
</header>`;
}

function cause({ failure, exit, limitHit, build }: Result): Html {
  const differences = build?.differences ?? [];
  if (failure === null && limitHit === null && differences.length === 0) {
    const signal = exit !== null && 'signal' in exit ? exit.signal : undefined;
    if (signal === undefined) return html``;
    return html`<section id="cause"><h2>Cause</h2><p>The command was ended by ${signal}.</p></section>`;
  }
  return html`<section id="cause">
<h2>Cause</h2>
${
  failure === null
    ? undefined
    : html`<p class="message"><code>${failure.code}</code> ${failure.message}</p>
${failure.causes.map((text) => html`<p class="because">because ${text}</p>`)}`
}
${limitHit === null ? undefined : html`<p>The limit that was in the way: <b>${limitHit}</b>.</p>`}
${failure === null || failure.lastLines.length === 0 ? undefined : html`<ol class="lines">${failure.lastLines.map(causeLine)}</ol>`}
${differences.slice(0, ROWS_MAX).map((one) => html`<p class="because">${one.package} ${one.path}: ${one.what}</p>`)}
${failure?.hint === undefined ? undefined : html`<p class="hint">${failure.hint}</p>`}
</section>`;
}

/** A line of a tool that says what went wrong. */
const ERROR = /\berror\b|\*\*\*|FAIL|Traceback/i;

function causeLine(line: string): Html {
  const plain = stripVTControlCharacters(line);
  return html`<li class="${ERROR.test(plain) ? 'error' : ''}"><code>${plain}</code></li>`;
}

function timeline({ phases, durationMs }: Result): Html {
  if (phases.length === 0) return html``;
  const ordered = phases.toSorted((a, b) => a.startMs - b.startMs);
  const whole = Math.max(durationMs, 1);
  const share = (ms: number) => (Math.min(1, ms / whole) * 100).toFixed(2);
  return html`<section id="timeline"><h2>Timeline</h2>
<table class="timeline"><tbody>
${ordered.map(
  (phase) =>
    html`<tr><th scope="row">${phase.name}</th><td class="number">${duration(phase.durationMs)}</td><td class="track"><span class="bar" data-start="${share(phase.startMs)}" data-length="${share(phase.durationMs)}"></span></td></tr>`,
)}
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
<select class="parts" aria-label="go to a part of the log"></select>
<input type="search" placeholder="search" aria-label="search the log"><button type="button" class="previous" aria-label="previous match">↑</button><button type="button" class="next" aria-label="next match">↓</button>
<span class="matches" role="status"></span></div>
<div class="viewer" tabindex="0"><div class="height"></div><ol class="rows"></ol></div>
<pre class="end">${main === undefined ? '' : main.end.join('\n')}</pre>
</section>`;
}

function artifacts({ artifacts: list }: Result): Html {
  if (list.length === 0) return html``;
  return html`<section id="artifacts"><h2>Artifacts</h2>
<table><thead><tr><th>file</th><th>size</th><th>sha256</th></tr></thead><tbody>
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

function packageList({ build }: Result, packages: readonly string[]): Html {
  const requires = build?.buildRequires ?? [];
  if (requires.length === 0 && packages.length === 0) return html``;
  return html`<section id="packages"><h2>Buildroot</h2>
<p>Required by the package: ${requires.length === 0 ? 'nothing' : requires.map((one) => html`<code>${one}</code> `)}</p>
<details><summary>${packages.length} packages</summary><ul class="packages">${packages.slice(0, ROWS_MAX).map((one) => html`<li>${one}</li>`)}</ul>${more(packages.length)}</details>
</section>`;
}

function policyOf({ policy, refusedCalls = [], egress = [] }: Result): Html {
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
${egress.length === 0 ? undefined : html`<h3>Network, by the proxy</h3><table><tbody>${egress.map((one) => html`<tr><td>${one.host}:${one.port}</td><td>${one.refused ?? `${one.count} connections, ${bytesOf(one.sentBytes)} out, ${bytesOf(one.receivedBytes)} in`}</td></tr>`)}</tbody></table>`}
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

/** A length of time for people. */
function duration(ms: number): string {
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60)];
  return `${hours > 0 ? `${hours} h ` : ''}${minutes} min ${seconds % 60} s`;
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

function bytesOf(bytes: number | undefined): string | undefined {
  if (bytes === undefined) return undefined;
  const power = bytes < 1024 ? 0 : Math.min(4, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** power;
  return `${value >= 100 || power === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[power]}`;
}
