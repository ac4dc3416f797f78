/** A chain's report.html, made of chain.json and the result directories of its members. */
import { z } from 'zod';
import { counted } from '../counted.ts';
import { KilnError } from '../errors.ts';
import { attempt } from '../host/calls/libc.ts';
import type { Folder } from '../host/files/folder.ts';
import { failuresOf, type LogFailures, readLog } from './ci/findings.ts';
import { criticalPath, drawing, needsOf } from './graph.ts';
import type { BrowserFiles } from './html.ts';
import { bar, documentOf, duration, type Html, html, timeOf } from './html.ts';
import { causeLine, failureList } from './page.ts';
import { replayChain } from './replay.ts';

const RESULT_MAX = 64 << 20;
/** Members whose log is read for what went wrong. */
const CAUSES_MAX = 20;
/** As kiln names the folders of members, which are those of packages. */
const FOLDER = /^[A-Za-z0-9_][^/\s\0]*$/;

const failureSchema = z
  .object({ code: z.string(), message: z.string(), hint: z.string().nullable() })
  .nullable();

const memberSchema = z.object({
  name: z.string(),
  source: z.string().optional(),
  state: z.enum(['waiting', 'building', 'built', 'unchanged', 'failed', 'skipped']),
  reason: z.string().nullable(),
  needs: z.array(z.object({ member: z.string(), capabilities: z.array(z.string()) })),
  packages: z.array(z.object({ file: z.string() })),
  exitStatus: z.int().nullable(),
  failure: failureSchema,
  failedPhase: z.string().nullable(),
  lastLines: z.array(z.string()),
});

const chainSchema = z.object({
  startedAt: z.iso.datetime(),
  durationMs: z.number(),
  exitStatus: z.int(),
  request: z.looseObject({ image: z.string(), jobs: z.int() }),
  failure: failureSchema,
  members: z.array(memberSchema),
  farm: z.object({ workers: z.record(z.string(), z.string().nullable()) }).optional(),
});

/** What the report takes of a member's result.json. */
const resultSchema = z.object({ startedAt: z.iso.datetime(), durationMs: z.number() });

type Chain = z.output<typeof chainSchema>;

interface ChainMember extends z.output<typeof memberSchema> {
  /** Milliseconds of its last build in this run; 0 where there was none. */
  readonly tookMs: number;
  /** Milliseconds from the start of the chain. */
  readonly startMs: number | undefined;
  /** The address of its report, relative; undefined where there is none. */
  readonly page: string | undefined;
  readonly failures: LogFailures | undefined;
}

/** @param text of chain.json, which anybody may have written @param path for messages @throws KilnError E_RESULT */
export function chainReport(
  folder: Folder,
  text: string,
  path: string,
  files: BrowserFiles,
): string {
  let chain: Chain;
  try {
    chain = chainSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new KilnError('E_RESULT', `${path} is not of a chain of this version of kiln`, {
      cause: cause instanceof z.ZodError ? new Error(z.prettifyError(cause)) : cause,
      hint: 'name a result folder as a chain left it; an older one is renewed by building it again',
    });
  }
  const failed = chain.members.filter(({ state }) => state === 'failed');
  const read = new Set(failed.slice(0, CAUSES_MAX));
  const members = chain.members.map((member) =>
    withResult(folder, chain, member, read.has(member)),
  );
  return chainPage(chain, members, files);
}

function withResult(
  top: Folder,
  { startedAt }: Chain,
  member: Chain['members'][number],
  withLog: boolean,
): ChainMember {
  const nothing = { tookMs: 0, startMs: undefined, page: undefined, failures: undefined };
  const isName = FOLDER.test(member.name) && member.name.isWellFormed();
  using folder = isName ? top.existing(member.name) : undefined;
  if (folder === undefined) return { ...member, ...nothing };
  const page = folder.has('report.html')
    ? `${encodeURIComponent(member.name)}/report.html`
    : undefined;
  // Other results are of an earlier run.
  const isOfRun = member.exitStatus !== null && ['built', 'failed'].includes(member.state);
  const times = isOfRun ? timesOf(folder) : undefined;
  const log = withLog && isOfRun ? readLog(folder, 'build.log') : undefined;
  return {
    ...member,
    page,
    tookMs: times?.durationMs ?? 0,
    // A machine of a farm has a clock of its own.
    startMs: times && Math.max(0, Date.parse(times.startedAt) - Date.parse(startedAt)),
    failures: log && failuresOf(log, member.name),
  };
}

function timesOf(folder: Folder): z.output<typeof resultSchema> | undefined {
  const read = () => folder.read('result.json', RESULT_MAX) ?? '';
  return attempt(() => resultSchema.parse(JSON.parse(read())));
}

function chainPage(chain: Chain, members: readonly ChainMember[], files: BrowserFiles): string {
  const counts = Map.groupBy(members, ({ state }) => state);
  const outcome = [...counts].map(([state, some]) => `${some.length} ${state}`).join(', ');
  const needs = needsOf(members);
  const critical = criticalPath(members, needs);
  const body = html`${header(chain, outcome)}
<main>
${causes(chain, members)}
${graphSection(members, needs, critical)}
${timeline(chain, members, critical.names)}
${table(chain, members)}
${again(chain)}
</main>`;
  return documentOf(
    { title: `Chain of ${counted(members.length, 'package')}: ${outcome}`, body },
    files,
  );
}

function again(chain: Chain): Html {
  const command = replayChain(chain);
  if (command === undefined) return html``;
  return html`<section id="request"><h2>Again</h2><pre class="command">${command}</pre></section>`;
}

function header(chain: Chain, outcome: string): Html {
  const { startedAt, durationMs, exitStatus, members, request } = chain;
  return html`<header class="${exitStatus === 0 ? 'good' : 'bad'}">
<h1><span class="outcome">${exitStatus === 0 ? 'succeeded' : 'failed'}</span> Chain of ${counted(members.length, 'package')}</h1>
<dl>
<div><dt>packages</dt><dd>${outcome}</dd></div>
<div><dt>started</dt><dd>${timeOf(startedAt)}</dd></div>
<div><dt>took</dt><dd>${duration(durationMs)}</dd></div>
<div><dt>at a time</dt><dd>${request.jobs === 0 ? 'as the farm has room' : request.jobs}</dd></div>
<div><dt>image</dt><dd>${request.image}</dd></div>
<div><dt>exit status</dt><dd>${exitStatus}</dd></div>
</dl>
</header>`;
}

function causes({ failure }: Chain, members: readonly ChainMember[]): Html {
  const failed = members.filter(({ state }) => state === 'failed');
  if (failed.length === 0 && failure === null) return html``;
  const left = failed.length - CAUSES_MAX;
  return html`<section id="cause"><h2>Cause</h2>
${failure === null ? undefined : said(failure)}
${failed.slice(0, CAUSES_MAX).map(
  (
    member,
  ) => html`<h3>${nameOf(member)}${member.failedPhase === null ? undefined : html`: failed in ${member.failedPhase}`}</h3>
${member.failure === null ? html`<p class="message">${member.reason ?? ''}</p>` : said(member.failure)}
${member.failures && failureList(member.failures, member.page ?? '')}
${member.lastLines.length === 0 ? undefined : html`<ol class="lines" tabindex="0" aria-label="the last lines">${member.lastLines.map(causeLine)}</ol>`}`,
)}
${left > 0 ? html`<p>${left} more failed.</p>` : undefined}
</section>`;
}

function said({ code, message, hint }: NonNullable<Chain['failure']>): Html {
  return html`<p class="message"><code>${code}</code> ${message}</p>${hint === null ? undefined : html`<p class="hint">${hint}</p>`}`;
}

function nameOf({ name, page }: ChainMember): Html {
  return page === undefined ? html`${name}` : html`<a href="${page}">${name}</a>`;
}

function graphSection(
  members: readonly ChainMember[],
  needs: ReturnType<typeof needsOf>,
  { names, durationMs }: ReturnType<typeof criticalPath>,
): Html {
  const drawn = drawing(members, needs, names);
  const byName = new Map(members.map((member) => [member.name, member]));
  const path = names.flatMap((name) => byName.get(name) ?? []);
  return html`<section id="graph"><h2>Graph</h2>
<p class="legend">${['built', 'unchanged', 'failed', 'skipped'].map((state) => html`<span class="key ${state}">${state}</span> `)}<span class="key critical">critical path</span></p>
${drawn === undefined ? undefined : html`<p class="scrolls" hidden>The graph is larger than this window: it scrolls.</p>`}
${drawn ?? html`<p>It is too large to draw; the table has what each package needs.</p>`}
${
  durationMs === 0
    ? html`<p>Nothing was built.</p>`
    : html`<p id="critical">Critical path, ${duration(durationMs)}: ${path.map((member, at) => html`${at === 0 ? '' : ' → '}${nameOf(member)} (${duration(member.tookMs)})`)}</p>`
}
</section>`;
}

function timeline(
  { durationMs }: Chain,
  members: readonly ChainMember[],
  critical: readonly string[],
): Html {
  const built = members
    .filter(({ startMs }) => startMs !== undefined)
    .sort((a, b) => (a.startMs ?? 0) - (b.startMs ?? 0));
  if (built.length === 0) return html``;
  const kind = ({ name, state }: ChainMember) =>
    `${state} ${critical.includes(name) ? 'critical' : ''}`;
  return html`<section id="timeline"><h2>Timeline</h2>
<table class="timeline"><tbody>
${built.map((member) => html`<tr><th scope="row">${nameOf(member)}</th><td class="number">${duration(member.tookMs)}</td><td class="track">${bar(member.startMs ?? 0, member.tookMs, durationMs, kind(member))}</td></tr>`)}
</tbody></table></section>`;
}

function table({ farm }: Chain, members: readonly ChainMember[]): Html {
  const workers = new Map(Object.entries(farm?.workers ?? {}));
  return html`<section id="members"><h2>Packages</h2>
<table><thead><tr><th>package</th><th>state</th><th class="number">took</th>${farm === undefined ? undefined : html`<th>machine</th>`}<th class="number">RPMs</th><th>needs</th></tr></thead><tbody>
${members.map(
  (member) =>
    html`<tr><td>${nameOf(member)}</td><td><span class="key ${member.state}">${member.state}</span>${member.reason === null ? undefined : html` ${member.reason}`}</td><td class="number">${member.tookMs > 0 ? duration(member.tookMs) : ''}</td>${farm === undefined ? undefined : html`<td>${workers.get(member.name) ?? ''}</td>`}<td class="number">${member.packages.length}</td><td>${member.needs.map(({ member: other, capabilities }, at) => html`${at === 0 ? '' : ', '}${other}${capabilities.length === 0 ? '' : ` (${capabilities.join(', ')})`}`)}</td></tr>`,
)}
</tbody></table>
<p>The packages with their metadata are in <a href="repository/current">repository/current</a>; <a href="chain.json">chain.json</a> says the same for programs.</p>
</section>`;
}
