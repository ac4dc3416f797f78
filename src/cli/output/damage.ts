import { damageText, onDamage } from '../../host/state/damage.ts';

/** Has damaged files told to whoever reads `say`, until it is disposed of; not where `--json` has nothing but JSON there. */
export function tellingDamage(argv: readonly string[], say: (text: string) => void): Disposable {
  const words = argv.includes('--') ? argv.slice(0, argv.indexOf('--')) : argv;
  const quiet = words.includes('--json');
  return onDamage((damage) => {
    if (!quiet) say(`kiln: warning: ${damageText(damage)}\n`);
  });
}
