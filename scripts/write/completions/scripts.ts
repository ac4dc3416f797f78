import type { Shell } from '../../../src/cli/completion.ts';
import type { CommandDescription } from '../describe.ts';
import { bashScript } from './bash.ts';
import { fishScript } from './fish.ts';
import { zshScript } from './zsh.ts';

export const SHELLS: Readonly<Record<Shell, (kiln: CommandDescription) => string>> = {
  bash: bashScript,
  zsh: zshScript,
  fish: fishScript,
};
