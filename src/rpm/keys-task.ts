/** The confined side of describeKeys: a keyring as plain data, or null where that cannot be. */
import type { ConfinedTask } from '../confine/task.ts';
import { loadKeyring } from './keyring.ts';

export const task: ConfinedTask = {
  async prepare() {
    // Loaded while there is still a way to files.
    await loadKeyring([]);
  },

  async run(texts, { emit }) {
    const keyring = await loadKeyring(texts as readonly string[]);
    emit((await keyring.toTrustedKeys()) ?? null);
  },
};
