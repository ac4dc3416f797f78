import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Options } from 'execa';
import type { Result } from '../../../src/result/schema.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../../support/busybox-state.ts';

/** The image of {@link busyboxState}, as a recipe names it. */
export const BUSYBOX = IMAGE.slice(0, 12);

/** How a build went. */
interface BuildOutcome {
  readonly exitCode: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
  /** Undefined when there is none. */
  readonly result: Result | undefined;
  readonly resultDirectory: string;
}

/** A state directory with an image of busybox, and a folder for recipes. */
export interface Workshop extends AsyncDisposable {
  readonly state: BusyboxState;
  /** Writes files below a new folder, and gives that. */
  folder(files: Readonly<Record<string, string | Buffer>>): Promise<string>;
  /** Writes a recipe and what it needs, and builds it. */
  build(
    files: Readonly<Record<string, string | Buffer>>,
    args?: readonly string[],
    options?: Options,
  ): Promise<BuildOutcome>;
}

export async function openWorkshop(): Promise<Workshop> {
  const state = await busyboxState();
  const top = join(state.beside, 'workshop');
  await mkdir(top, { mode: 0o755 });
  const folder = async (files: Readonly<Record<string, string | Buffer>>) => {
    const path = await mkdtemp(join(top, 'recipe-'));
    for (const [name, text] of Object.entries(files)) {
      await mkdir(dirname(join(path, name)), { recursive: true });
      await writeFile(join(path, name), text);
    }
    return path;
  };
  return {
    state,
    folder,
    async build(files, args = [], options = {}) {
      const path = await folder(files);
      const resultDirectory = join(path, 'out');
      const recipe = join(path, Object.keys(files)[0] ?? '');
      const run = await state.kiln(
        ['build', recipe, '--resultdir', resultDirectory, ...args],
        options,
      );
      const text = await readFile(join(resultDirectory, 'result.json'), 'utf8').catch(
        () => undefined,
      );
      return {
        exitCode: run.exitCode,
        stdout: String(run.stdout),
        stderr: String(run.stderr),
        result: text === undefined ? undefined : JSON.parse(text),
        resultDirectory,
      };
    },
    async [Symbol.asyncDispose]() {
      await rm(top, { recursive: true, force: true });
      await state[Symbol.asyncDispose]();
    },
  };
}
