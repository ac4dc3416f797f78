/** koffi is imported only beside a library's functions: a thread that ends while loading it crashes the process. */
import koffi from 'koffi';

export const libc = koffi.load('libc.so.6');

export type Pointer = bigint & { readonly __pointer?: never };

export type Library = ReturnType<typeof koffi.load>;

/** What a C type is here. Memory of ours may be passed as the address of an object. */
type Argument<C extends string> = C extends `_Out_ int *${string}`
  ? [number]
  : C extends `const char *${string}`
    ? string
    : C extends `void *${string}` | `const void *${string}`
      ? Pointer | NodeJS.ArrayBufferView | null
      : C extends `uintptr_t ${string}`
        ? Pointer
        : C extends `size_t ${string}`
          ? number | bigint
          : number;

type Arguments<C extends string> = C extends ''
  ? []
  : C extends `${infer First}, ${infer Rest}`
    ? [Argument<First>, ...Arguments<Rest>]
    : [Argument<C>];

/** libsolv's look-ups, a key without a user and a domain that is gone give NULL. */
type Nullable =
  | `const char *${string}_lookup_${string}`
  | `const char *${'pgpDigParamsUserID' | 'virDomainGetName'}`;

type Result<C extends string> = C extends Nullable
  ? string | null
  : C extends `const char *${string}`
    ? string
    : C extends 'void *fdopen' | `void *vir${string}`
      ? Pointer | null
      : C extends `void *${string}`
        ? Pointer
        : C extends `${'unsigned long long' | 'uintptr_t' | 'size_t'} ${string}`
          ? number | bigint
          : C extends `void ${string}`
            ? undefined
            : C extends `size_t ${string}`
              ? number | bigint
              : number;

/** `async` makes the call on a thread of the pool. */
export type Native<Given extends unknown[], Got> = ((...given: Given) => Got) & {
  async(...given: [...Given, (error: Error | null, result: Got) => void]): void;
};

type Call<Prototype> = Prototype extends `${infer Name}(${infer Parameters})`
  ? Native<Arguments<Parameters>, Result<Name>>
  : never;

export function typed<const Prototypes extends Readonly<Record<string, string>>>(
  library: Library,
  prototypes: Prototypes,
): { readonly [Name in keyof Prototypes]: Call<Prototypes[Name]> } {
  const bound = Object.entries(prototypes).map(
    ([name, prototype]) => [name, library.func(prototype) as unknown] as const,
  );
  return Object.fromEntries(bound) as ReturnType<typeof typed<Prototypes>>;
}
