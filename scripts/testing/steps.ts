import { execa } from 'execa';

/** A command that has to succeed before, or beside, the tests. */
export interface Step {
  readonly title: string;
  readonly command: readonly [string, ...string[]];
  readonly env?: Readonly<Record<string, string>>;
}

/**
 * Runs a step, tells whether it succeeded and prints how long it took. What it says is printed as it comes, or, of
 * one that runs beside another, in one piece at its end.
 */
export async function runStep(
  step: Step,
  cwd: string,
  { isBeside = false } = {},
): Promise<boolean> {
  const [file, ...args] = step.command;
  const started = performance.now();
  const title = `==> ${step.title}\n`;
  if (!isBeside) process.stdout.write(title);
  const result = await execa(file, args, {
    cwd,
    stdin: 'ignore',
    ...(isBeside ? { all: true } : { stdout: 'inherit', stderr: 'inherit' }),
    env: step.env ?? {},
    reject: false,
  });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const said = isBeside ? `${title}${result.all ? `${result.all}\n` : ''}` : '';
  process.stdout.write(`${said}    ${result.failed ? 'FAILED' : 'done'} in ${seconds} s\n`);
  return !result.failed;
}
