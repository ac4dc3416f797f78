import fc from 'fast-check';

/** Texts like `text`: half of them with a character or two changed, half with pieces put into it. */
export function damagedText(text: string, pieces: readonly string[]): fc.Arbitrary<string> {
  const change = (cut: number, put: fc.Arbitrary<string>) =>
    fc.tuple(fc.nat(text.length), fc.nat(cut), put);
  const little = fc.array(change(1, fc.constantFrom('', 'a', '7', '-', '.', 'Z')), {
    minLength: 1,
    maxLength: 2,
  });
  const much = fc.array(change(40, fc.oneof(fc.constantFrom(...pieces), fc.string())), {
    minLength: 1,
    maxLength: 6,
  });
  return fc
    .oneof(little, much)
    .map((changes) =>
      changes.reduce((it, [at, cut, put]) => it.slice(0, at) + put + it.slice(at + cut), text),
    );
}
