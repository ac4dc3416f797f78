import { type Document, isScalar, parseDocument, visit, YAMLParseError } from 'yaml';

type Options = NonNullable<Parameters<typeof parseDocument>[1]>;

/**
 * As parseDocument(), which compares each key of a map with all others: a file of a megabyte took it twenty minutes.
 * Of a key that is there more than twice, the second one is an error.
 */
export function parseYaml(text: string, options: Options = {}): Document.Parsed {
  const document = parseDocument(text, { ...options, uniqueKeys: false });
  // Broken YAML has errors enough, and may be nested too deeply to be walked through.
  if (document.errors.length > 0) return document;
  visit(document, {
    Map(_, { items }) {
      const seen = new Map<unknown, number>();
      for (const { key } of items) {
        if (!isScalar(key)) continue;
        const times = (seen.get(key.value) ?? 0) + 1;
        seen.set(key.value, times);
        const [start] = key.range ?? [0];
        if (times === 2)
          document.errors.push(
            new YAMLParseError([start, start + 1], 'DUPLICATE_KEY', 'Map keys must be unique'),
          );
      }
    },
  });
  return document;
}
