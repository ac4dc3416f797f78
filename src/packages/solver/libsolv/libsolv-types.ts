import type koffi from 'koffi';

/** The address of something libsolv allocated; never dereferenced outside this folder. */
export type Pointer = bigint & { readonly __pointer?: never };

/**
 * An integer that stands for a string, a relation (negative) or a package, depending on where it is
 * used. 0 is none.
 */
export type Id = number;

export type Library = ReturnType<typeof koffi.load>;
