import { damageText, onDamage } from '../../host/state/damage.ts';

/** Reports damaged files to `say` until disposed of; not if `--json` reserves stderr for JSON. */
export function tellingDamage(argv: readonly string[], say: (text: string) => void): Disposable {
  const words = argv.includes('--') ? argv.slice(0, argv.indexOf('--')) : argv;
  const quiet = words.includes('--json');
  return onDamage((damage) => {
    if (!quiet) say(`kiln: warning: ${damageText(damage)}\n`);
  });
}
