/** What a box asked the proxy for: a line for each host, port and outcome. */
export interface EgressEntry {
  readonly host: string;
  readonly port: number;
  /** Why it was not given; undefined: it was. */
  readonly refused?: string;
  readonly count: number;
  readonly sentBytes: number;
  readonly receivedBytes: number;
}

/** Lines at most: a box can ask for any number of hosts. */
export const MAX_ENTRIES = 200;

/** Stands for the hosts beyond {@link MAX_ENTRIES}. */
const OTHERS = '(others)';

/** Counts connections. */
export class EgressLog {
  readonly #entries = new Map<string, EgressEntry>();

  add(entry: Omit<EgressEntry, 'count'> & { readonly count?: number }): void {
    const { count = 1 } = entry;
    let key = JSON.stringify([entry.host, entry.port, entry.refused]);
    let named = entry;
    if (!this.#entries.has(key) && this.#entries.size >= MAX_ENTRIES) {
      const { refused } = entry;
      key = JSON.stringify([OTHERS, refused !== undefined]);
      named = { ...entry, host: OTHERS, port: 0, ...(refused && { refused: 'see above' }) };
    }
    const before = this.#entries.get(key);
    this.#entries.set(key, {
      ...named,
      count: count + (before?.count ?? 0),
      sentBytes: entry.sentBytes + (before?.sentBytes ?? 0),
      receivedBytes: entry.receivedBytes + (before?.receivedBytes ?? 0),
    });
  }

  /** In the order in which they were asked for first. */
  entries(): EgressEntry[] {
    return [...this.#entries.values()];
  }
}
