/** Messages of the Varlink protocol (https://varlink.org/Method-Call): JSON that ends with a NUL byte. */

/** The most bytes of a message. */
export const MESSAGE_MAX = 4 << 20;

/** Errors of every Varlink service. */
export const SERVICE_ERROR = {
  interfaceNotFound: 'org.varlink.service.InterfaceNotFound',
  methodNotFound: 'org.varlink.service.MethodNotFound',
  invalidParameter: 'org.varlink.service.InvalidParameter',
  permissionDenied: 'org.varlink.service.PermissionDenied',
  expectedMore: 'org.varlink.service.ExpectedMore',
} as const;

/** A method call. */
export interface CallMessage {
  readonly method: string;
  readonly parameters: Readonly<Record<string, unknown>>;
  readonly more: boolean;
  readonly oneway: boolean;
  readonly upgrade: boolean;
}

/** The first message in `bytes` without its NUL; undefined if it is incomplete. */
export function firstMessage(bytes: Buffer): Buffer | undefined {
  const end = bytes.indexOf(0);
  return end === -1 ? undefined : bytes.subarray(0, end);
}

/** Parses a call; undefined for anything else. */
export function parseCall(message: Buffer): CallMessage | undefined {
  let value: unknown;
  try {
    value = JSON.parse(message.toString('utf8'));
  } catch {
    return undefined;
  }
  if (!isObject(value) || typeof value.method !== 'string') return undefined;
  const { method, more, oneway, upgrade } = value;
  // systemd and others write null for missing fields.
  const parameters = value.parameters ?? {};
  if (!isObject(parameters)) return undefined;
  const flags = [more, oneway, upgrade].map((flag) => flag ?? false);
  if (!flags.every((flag) => typeof flag === 'boolean')) return undefined;
  const [isMore = false, isOneway = false, isUpgrade = false] = flags;
  return { method, parameters, more: isMore, oneway: isOneway, upgrade: isUpgrade };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

const CONTINUES = '{"continues":true,';

/** A reply as bytes; with `continues`, others follow. */
export function encodeReply(parameters: object = {}, continues = false): Buffer {
  const text = JSON.stringify(parameters);
  return Buffer.from(`${continues ? CONTINUES : '{'}"parameters":${text}}\0`);
}

/** Whether others follow a reply of {@link encodeReply}. */
export function continues(reply: Buffer): boolean {
  return reply.toString('latin1', 0, CONTINUES.length) === CONTINUES;
}

/** An error reply as bytes. */
export function encodeError(error: string, parameters: object = {}): Buffer {
  return Buffer.from(`${JSON.stringify({ error, parameters })}\0`);
}
