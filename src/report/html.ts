/** HTML of values that strangers wrote, and what all reports have in common. */
import { hash } from 'node:crypto';

export interface Html {
  readonly html: string;
}

type Value = Html | string | number | readonly Html[] | undefined;

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Characters that no document has or that change how their surroundings are read: C0, DEL, C1, directions. */
const CONTROL =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

function escaped(text: string): string {
  return text
    .replace(/[&<>"']/g, (character) => ENTITIES[character] ?? '')
    .replace(CONTROL, '\ufffd');
}

function rendered(value: Value): string {
  if (value === undefined) return '';
  if (typeof value === 'string') return escaped(value);
  if (typeof value === 'number') return String(value);
  return 'html' in value ? value.html : value.map((one) => one.html).join('');
}

/** Values stand in elements or in quoted attributes, nowhere else; all but templates are escaped. */
export function html(strings: TemplateStringsArray, ...values: readonly Value[]): Html {
  return { html: String.raw({ raw: strings }, ...values.map(rendered)) };
}

export interface BrowserFiles {
  readonly script: string;
  readonly style: string;
  /** uPlot's, https://github.com/leeoniya/uPlot: only where there is something to plot. */
  readonly plotScript: string;
  readonly plotStyle: string;
}

interface Document {
  readonly title: string;
  readonly body: Html;
  readonly samples?: unknown;
}

/** A whole page. It runs the scripts of `files` only, and loads nothing from elsewhere. */
export function documentOf({ title, body, samples }: Document, files: BrowserFiles): string {
  const plots = samples !== undefined;
  const scripts = [...(plots ? [files.plotScript] : []), files.script];
  const styles = [files.style, ...(plots ? [files.plotStyle] : [])];
  // Only these scripts and styles, and nothing from elsewhere: https://www.w3.org/TR/CSP3/
  const policy = [
    "default-src 'none'",
    `script-src ${scripts.map(sourceDigest).join(' ')}`,
    `style-src ${styles.map(sourceDigest).join(' ')}`,
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ');
  return html`<!doctype html>
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
${body}
<script type="application/json" id="samples">${{ html: scriptJson(samples ?? null) }}</script>
${scripts.map((text) => ({ html: `<script>${text}</script>` }))}
</body>
</html>
`.html;
}

/** JSON that ends no script element. */
function scriptJson(value: unknown): string {
  return JSON.stringify(value).replaceAll('<', '\\u003c');
}

function sourceDigest(text: string): string {
  return `'sha256-${hash('sha256', text, 'base64')}'`;
}

/** The page's script writes it in the reader's time zone. */
export function timeOf(iso: string): Html {
  return html`<time datetime="${iso}">${iso.slice(0, 16).replace('T', ' ')} UTC</time>`;
}

export function duration(ms: number): string {
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60)];
  return `${hours > 0 ? `${hours} h ` : ''}${minutes} min ${seconds % 60} s`;
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function bytesOf(bytes: number | undefined): string | undefined {
  if (bytes === undefined) return undefined;
  const power = bytes < 1024 ? 0 : Math.min(4, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** power;
  return `${value >= 100 || power === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[power]}`;
}

/** A bar on a track, of a part of `whole` milliseconds. The page's script gives it its place. */
export function bar(startMs: number, lengthMs: number, whole: number, kind = ''): Html {
  const share = (ms: number) =>
    (Math.min(1, Math.max(0, ms / Math.max(whole, 1))) * 100).toFixed(2);
  return html`<span class="bar ${kind}" data-start="${share(startMs)}" data-length="${share(lengthMs)}"></span>`;
}
