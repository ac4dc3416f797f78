import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';

/** Makes a folder with `levels` nested ones of 200-character names, and a file at the end: no path reaches it. */
export function makeDeepTree(path: string, levels: number): void {
  mkdirSync(path);
  perl(
    path,
    `for (1..${levels}) { mkdir "d" x 200 or die; chdir "d" x 200 or die } open F, ">", "end" or die`,
  );
}

/** Runs a Perl program in a directory, which can go where no path leads. */
export function perl(directory: string, script: string): void {
  execFileSync('perl', ['-e', script], { cwd: directory });
}
