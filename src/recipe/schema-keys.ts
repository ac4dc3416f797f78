import * as z from 'zod';

/**
 * The keys a schema knows at `path`, for "did you mean": empty where it takes any key.
 * Looks through optional, default and pipe wrappers, and at every branch of a union.
 */
export function knownKeys(schema: z.core.$ZodType, path: readonly PropertyKey[]): string[] {
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodDefault) {
    return knownKeys(schema.unwrap(), path);
  }
  if (schema instanceof z.ZodPipe) return knownKeys(schema.in, path);
  if (schema instanceof z.ZodUnion) {
    return schema.options.flatMap((option: z.core.$ZodType) => knownKeys(option, path));
  }
  const [key, ...rest] = path;
  if (schema instanceof z.ZodObject) {
    const shape: Record<string, z.core.$ZodType> = schema.shape;
    if (key === undefined) return Object.keys(shape);
    const next = shape[String(key)];
    return next === undefined ? [] : knownKeys(next, rest);
  }
  if (key === undefined) return [];
  if (schema instanceof z.ZodArray) return knownKeys(schema.element, rest);
  if (schema instanceof z.ZodRecord) return knownKeys(schema.valueType, rest);
  return [];
}
