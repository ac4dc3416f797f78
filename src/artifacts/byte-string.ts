import { isUtf8 } from 'node:buffer';

/*
 * File names are bytes. Inside this folder a name or path is a *byte string*: a JavaScript string
 * with one character a byte (latin1), which compares, splits and keys a Map without losing
 * anything. It becomes text only for matching and for people.
 */

export type ByteString = string;

export function fromBytes(name: Buffer): ByteString {
  return name.toString('latin1');
}

export function fromText(text: string): ByteString {
  return Buffer.from(text, 'utf8').toString('latin1');
}

export function toBytes(name: ByteString): Buffer {
  return Buffer.from(name, 'latin1');
}

/**
 * The name as a pattern sees it: characters where it is valid UTF-8, otherwise ISO 8859-1, so that
 * `?` is one character of a valid name and one byte of an invalid one.
 */
export function matchText(name: ByteString): string {
  const { text, bytes } = reportName(name);
  return bytes === undefined ? text : name;
}

export function reportName(name: ByteString): { readonly text: string; readonly bytes?: string } {
  if (/^[\x00-\x7f]*$/.test(name)) return { text: name };
  const bytes = toBytes(name);
  const text = bytes.toString('utf8');
  return isUtf8(bytes) ? { text } : { text, bytes: bytes.toString('base64') };
}

export function quoteName(name: ByteString): string {
  return JSON.stringify(toBytes(name).toString('utf8')).replace(
    /[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

export function joinBytes(parent: ByteString, name: ByteString): ByteString {
  return parent === '' ? name : `${parent}/${name}`;
}
