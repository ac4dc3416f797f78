/** The completion scripts of shells: options are written into them, and kiln is asked for names. */
import { bashScript } from './bash.ts';
import type { CommandDescription } from './describe.ts';
import { fishScript } from './fish.ts';
import { zshScript } from './zsh.ts';

export type Shell = 'bash' | 'zsh' | 'fish';

export const SHELLS: Readonly<Record<Shell, (kiln: CommandDescription) => string>> = {
  bash: bashScript,
  zsh: zshScript,
  fish: fishScript,
};
