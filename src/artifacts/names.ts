/**
 * File names are bytes. Inside this folder a name or path is a *byte string*: a JavaScript string
 * with one character a byte (latin1), which compares, splits and keys a Map without losing
 * anything. It becomes text only for matching and for people.
 */
import { isUtf8 } from 'node:buffer';

/** One character a byte; `/` separates components as usual. */
export type ByteString = string;

/** The byte string of a name as the kernel gave it. */
export function fromBytes(name: Buffer): ByteString {
  return name.toString('latin1');
}

/** The byte string of text typed by a person (UTF-8, as every name kiln itself makes). */
export function fromText(text: string): ByteString {
  return Buffer.from(text, 'utf8').toString('latin1');
}

/** The bytes to hand to the kernel. */
export function toBytes(name: ByteString): Buffer {
  return Buffer.from(name, 'latin1');
}

/** The same for the calls of kernel/, which are quicker with text, where it has the same bytes. */
export function toName(name: ByteString): Buffer | string {
  return isAscii(name) ? name : toBytes(name);
}

/** Such a byte string is its own text. */
function isAscii(name: ByteString): boolean {
  return /^[\x00-\x7f]*$/.test(name);
}

/**
 * The name as a pattern sees it: characters where it is valid UTF-8, otherwise ISO 8859-1, so that
 * `?` is one character of a valid name and one byte of an invalid one.
 */
export function matchText(name: ByteString): string {
  const { text, bytes } = reportName(name);
  return bytes === undefined ? text : name;
}

/** How a name is written in result.json. */
export interface ReportedName {
  /** The name as text; bytes that are not UTF-8 became U+FFFD. */
  readonly text: string;
  /** The exact bytes in base64, only where `text` lost something. */
  readonly bytes?: string;
}

/** A byte string for JSON: readable, and exact even where it is not UTF-8. */
export function reportName(name: ByteString): ReportedName {
  if (isAscii(name)) return { text: name };
  const bytes = toBytes(name);
  if (isUtf8(bytes)) return { text: bytes.toString('utf8') };
  return { text: bytes.toString('utf8'), bytes: bytes.toString('base64') };
}

/** A byte string for a message: on one line, control characters escaped, quoted. */
export function quoteName(name: ByteString): string {
  return JSON.stringify(toBytes(name).toString('utf8')).replace(
    /[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** Joins two relative byte paths; either may be empty. */
export function joinBytes(parent: ByteString, name: ByteString): ByteString {
  return parent === '' ? name : `${parent}/${name}`;
}
