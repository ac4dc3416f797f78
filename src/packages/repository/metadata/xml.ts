import { SaxesParser } from 'saxes';
import { brokenMetadata } from './broken-metadata.ts';

/** One element of a small XML document. Namespace prefixes are cut off. */
export interface XmlElement {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly XmlElement[];
  /** Its own text, trimmed. */
  readonly text: string;
}

const MAX_ELEMENTS = 100_000;
const MAX_DEPTH = 32;

/**
 * Reads a whole document of a few MiB at most. Runs in a confined child.
 * @throws KilnError E_REPOSITORY_METADATA naming `what`.
 */
export function parseXml(text: string, what: string): XmlElement {
  const root = { name: '', attributes: {}, children: [] as XmlElement[], text: '' };
  const stack: { name: string; children: XmlElement[]; text: string }[] = [root];
  const fail = (why: string): never => {
    throw brokenMetadata(what, why);
  };
  let count = 0;
  const parser = new SaxesParser();
  parser.on('error', (error) => fail(error.message));
  parser.on('doctype', () => fail('it declares a document type'));
  parser.on('opentag', (tag) => {
    if (++count > MAX_ELEMENTS || stack.length > MAX_DEPTH) fail('it has too many elements');
    const element = {
      name: localName(tag.name),
      attributes: tag.attributes,
      children: [],
      text: '',
    };
    stack.at(-1)?.children.push(element);
    stack.push(element);
  });
  parser.on('text', (part) => {
    const current = stack.at(-1);
    if (current !== undefined) current.text += part;
  });
  parser.on('closetag', () => {
    const element = stack.pop();
    if (element !== undefined) element.text = element.text.trim();
  });
  parser.write(text).close();
  return root.children[0] ?? fail('it is empty');
}

/** The first child called `name`. */
export function child(element: XmlElement, name: string): XmlElement | undefined {
  return element.children.find((candidate) => candidate.name === name);
}

/** All children called `name`. */
export function children(element: XmlElement | undefined, name: string): readonly XmlElement[] {
  return element?.children.filter((candidate) => candidate.name === name) ?? [];
}

function localName(name: string): string {
  return name.slice(name.indexOf(':') + 1);
}
