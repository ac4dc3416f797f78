/** Pages as Debian's Chromium has them, without a window. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const PATIENCE = Number(process.env.KILN_TEST_PATIENCE ?? 1);

/** The document of a file after its scripts have run. @param hash of the address */
export async function inBrowser(path: string, hash = ''): Promise<string> {
  const profile = mkdtempSync(join(tmpdir(), 'kiln-chromium-'));
  try {
    const { stdout } = await promisify(execFile)(
      'chromium',
      [
        ...['--headless', '--no-sandbox', '--disable-gpu', `--user-data-dir=${profile}`],
        ...['--virtual-time-budget=20000', '--dump-dom', `file://${path}${hash}`],
      ],
      { maxBuffer: 2 ** 28, timeout: 120_000 * PATIENCE },
    );
    return stdout;
  } finally {
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** How a page is looked at. */
interface View {
  readonly width: number;
  readonly scheme: 'light' | 'dark';
  /** As it is printed. */
  readonly isPrint?: boolean;
}

/** A protocol of Chromium's own, by a pipe: https://chromedevtools.github.io/devtools-protocol/ */
class Wire {
  readonly #to: Writable;
  readonly #answers = new Map<number, PromiseWithResolvers<Record<string, unknown>>>();
  #last = 0;

  constructor(to: Writable, from: Readable) {
    this.#to = to;
    to.on('error', () => undefined);
    let rest = '';
    from.setEncoding('utf8').on('data', (text: string) => {
      const messages = (rest + text).split('\0');
      rest = messages.pop() ?? '';
      for (const message of messages) {
        const { id, result, error } = JSON.parse(message);
        if (error === undefined) this.#answers.get(id)?.resolve(result);
        else this.#answers.get(id)?.reject(new Error(error.message));
      }
    });
    from.on('close', () => {
      for (const answer of this.#answers.values()) answer.reject(new Error('chromium has ended'));
    });
  }

  async call(method: string, params: object = {}, sessionId?: string) {
    const id = ++this.#last;
    const answer = Promise.withResolvers<Record<string, unknown>>();
    this.#answers.set(id, answer);
    this.#to.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return await answer.promise;
  }
}

/**
 * What an expression gives in a page, in each of the views; the page has run its scripts. A picture of each goes to the
 * folder of KILN_PICTURES, where that is set.
 */
export async function inViews<Value>(
  path: string,
  views: readonly View[],
  expression: string,
): Promise<Value[]> {
  const profile = mkdtempSync(join(tmpdir(), 'kiln-chromium-'));
  const args = ['--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe'];
  const child = spawn('chromium', [...args, `--user-data-dir=${profile}`, 'about:blank'], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: profile },
  });
  const ended = once(child, 'exit');
  const wire = new Wire(child.stdio[3] as Writable, child.stdio[4] as Readable);
  const values: Value[] = [];
  try {
    for (const { width, scheme, isPrint = false } of views) {
      const { targetId } = await wire.call('Target.createTarget', { url: 'about:blank' });
      const attached = await wire.call('Target.attachToTarget', { targetId, flatten: true });
      const session = String(attached.sessionId);
      const call = (method: string, params: object) => wire.call(method, params, session);
      const evaluate = async (text: string) => {
        const wanted = { expression: text, returnByValue: true, awaitPromise: true };
        const { result } = await call('Runtime.evaluate', wanted);
        return (result as { readonly value: unknown }).value;
      };
      const size = { width, height: 900, deviceScaleFactor: 1, mobile: false };
      await call('Emulation.setDeviceMetricsOverride', size);
      const features = [{ name: 'prefers-color-scheme', value: scheme }];
      await call('Emulation.setEmulatedMedia', { features, media: isPrint ? 'print' : '' });
      await call('Page.navigate', { url: `file://${path}` });
      const isReady = "document.readyState === 'complete' && location.protocol === 'file:'";
      for (let tries = 0; (await evaluate(isReady)) !== true; tries++) {
        if (tries > 600 * PATIENCE) throw new Error(`${path} does not load`);
        await sleep(100);
      }
      // Viewers unpack their logs, and observers look at sizes, after the page is there.
      await sleep(500);
      values.push((await evaluate(expression)) as Value);
      const pictures = process.env.KILN_PICTURES;
      if (pictures !== undefined) {
        const { data } = await call('Page.captureScreenshot', { format: 'png' });
        const name = `${basename(dirname(path))}-${width}-${scheme}.png`;
        writeFileSync(join(pictures, name), Buffer.from(String(data), 'base64'));
      }
      await wire.call('Target.closeTarget', { targetId });
    }
    return values;
  } finally {
    // Processes of one that is killed write on for a moment.
    await Promise.race([wire.call('Browser.close').then(() => ended), sleep(10_000)]).catch(
      () => undefined,
    );
    child.kill('SIGKILL');
    rmSync(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}
