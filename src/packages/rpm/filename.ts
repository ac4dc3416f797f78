/**
 * Strings for bytes that should be UTF-8 and sometimes are not: file names, old summaries. Another byte becomes the
 * lone surrogate U+DC80..U+DCFF (Python's "surrogateescape", PEP 383), which JSON can carry: all can be restored.
 */
import { isUtf8 } from 'node:buffer';

const ESCAPE = 0xdc00;

export function decodeName(bytes: Buffer): string {
  if (isUtf8(bytes)) return bytes.toString('utf8');
  let text = '';
  for (let at = 0; at < bytes.length; ) {
    const end = at + sequenceLength(bytes[at]!);
    const sequence = bytes.subarray(at, end);
    if (end <= bytes.length && isUtf8(sequence)) {
      text += sequence.toString('utf8');
      at = end;
    } else {
      text += String.fromCharCode(ESCAPE + bytes[at]!);
      at += 1;
    }
  }
  return text;
}

function sequenceLength(lead: number): number {
  if (lead >= 0xf0) return 4;
  if (lead >= 0xe0) return 3;
  return lead >= 0xc0 ? 2 : 1;
}

export function encodeName(text: string): Buffer {
  if (text.isWellFormed()) return Buffer.from(text);
  const parts: Buffer[] = [];
  for (const character of text) {
    const code = character.codePointAt(0)!;
    if (code < 0xd800 || code > 0xdfff) parts.push(Buffer.from(character));
    else if (code >= ESCAPE + 0x80 && code <= ESCAPE + 0xff) parts.push(Buffer.of(code - ESCAPE));
    else throw new TypeError('a file name holds a surrogate that stands for no byte');
  }
  return Buffer.concat(parts);
}

/** The name for a system call that also takes text: most names are UTF-8 and need no conversion to bytes. */
export function callName(text: string): Buffer | string {
  return text.isWellFormed() ? text : encodeName(text);
}

export function showName(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f]|[\ud800-\udfff]/gu, (character) => {
    const code = character.codePointAt(0)!;
    const byte = code >= ESCAPE ? code - ESCAPE : code;
    return `\\x${byte.toString(16).padStart(2, '0')}`;
  });
}
