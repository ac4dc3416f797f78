/** Messages of the Varlink protocol (https://varlink.org/Method-Call): JSON that ends with a NUL byte. */

/** Longest message that is taken, bytes. */
export const MESSAGE_MAX = 16 << 20;

/** A method that somebody calls. */
export interface Call {
  readonly method: string;
  readonly parameters: Readonly<Record<string, unknown>>;
  readonly more: boolean;
  readonly oneway: boolean;
  readonly upgrade: boolean;
}

/** The bytes of the first message in `bytes`, without its NUL; undefined if it is not whole yet. */
export function firstMessage(bytes: Buffer): Buffer | undefined {
  const end = bytes.indexOf(0);
  return end === -1 ? undefined : bytes.subarray(0, end);
}

/** Reads a call; undefined if it is none. */
export function parseCall(message: Buffer): Call | undefined {
  let value: unknown;
  try {
    value = JSON.parse(message.toString('utf8'));
  } catch {
    return undefined;
  }
  if (!isObject(value) || typeof value.method !== 'string') return undefined;
  const { method, parameters = {}, more = false, oneway = false, upgrade = false } = value;
  if (!isObject(parameters)) return undefined;
  if (![more, oneway, upgrade].every((flag) => typeof flag === 'boolean')) return undefined;
  return { method, parameters, more, oneway, upgrade } as Call;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A reply, as bytes. */
export function encodeReply(parameters: object = {}): Buffer {
  return Buffer.from(`${JSON.stringify({ parameters })}\0`);
}

/** An error reply, as bytes. */
export function encodeError(error: string, parameters: object = {}): Buffer {
  return Buffer.from(`${JSON.stringify({ error, parameters })}\0`);
}
