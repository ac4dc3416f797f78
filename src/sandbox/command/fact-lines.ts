/** The values of each name in the lines NAME=VALUE, the form in which the guest init writes what it found. */
export function factLines(facts: string): Map<string, string[]> {
  const lines = new Map<string, string[]>();
  for (const line of facts.split('\n')) {
    const equals = line.indexOf('=');
    if (equals < 0) continue;
    const name = line.slice(0, equals);
    const values = lines.get(name);
    if (values === undefined) lines.set(name, [line.slice(equals + 1)]);
    else values.push(line.slice(equals + 1));
  }
  return lines;
}
