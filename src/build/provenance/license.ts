import { createHash } from 'node:crypto';
import parse from 'spdx-expression-parse';

/** A license as an SPDX document has it. */
export interface SpdxLicense {
  /** An SPDX license expression (annex D of SPDX 2.3), or NOASSERTION. */
  readonly expression: string;
  /** The text that a LicenseRef in the expression stands for. */
  readonly extracted?: { readonly licenseId: string; readonly extractedText: string };
}

/**
 * A package's License tag for an SPDX document. Fedora's and openSUSE's are SPDX expressions;
 * others name licenses in ways of their own, and are kept word by word behind a LicenseRef.
 */
export function spdxLicense(tag: string): SpdxLicense {
  const text = tag.toWellFormed().trim();
  if (text === '') return { expression: 'NOASSERTION' };
  if (isExpression(text)) return { expression: text };
  const hash = createHash('sha256').update(text).digest('hex').slice(0, 16);
  const licenseId = `LicenseRef-kiln-${hash}`;
  return { expression: licenseId, extracted: { licenseId, extractedText: text } };
}

/** Longer ones are no expressions a person wrote, and the parser recurses. */
const LONGEST = 2000;

function isExpression(text: string): boolean {
  if (text.length > LONGEST) return false;
  try {
    parse(text);
    // A reference would have to lead to something in the document, and the tag has no texts.
    return !/LicenseRef-|DocumentRef-/.test(text);
  } catch {
    return false;
  }
}
