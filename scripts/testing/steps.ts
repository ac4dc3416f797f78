import { execa } from 'execa';

/** A command that has to succeed before, or beside, the tests. */
export interface Step {
  readonly title: string;
  readonly command: readonly [string, ...string[]];
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs a step with its output on ours; tells whether it succeeded and prints how long it took. */
export async function runStep(step: Step, cwd: string): Promise<boolean> {
  const [file, ...args] = step.command;
  const started = performance.now();
  process.stdout.write(`==> ${step.title}\n`);
  const result = await execa(file, args, {
    cwd,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: step.env ?? {},
    reject: false,
  });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  process.stdout.write(`    ${result.failed ? 'FAILED' : 'done'} in ${seconds} s\n`);
  return !result.failed;
}
