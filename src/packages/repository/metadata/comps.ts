import { SaxesParser } from 'saxes';
import { defined } from '../../../defined.ts';
import type { KilnError } from '../../../errors.ts';
import { brokenMetadata } from './broken-metadata.ts';

/** One package of a comps group. */
export interface GroupPackage {
  readonly name: string;
  readonly type: 'mandatory' | 'default' | 'optional' | 'conditional';
  /** For `conditional`: install it only together with this package. */
  readonly requires?: string;
}

/** A comps group, or an environment: a group of groups. */
export interface Group {
  readonly kind: 'group' | 'environment';
  readonly id: string;
  readonly name: string;
  readonly packages: GroupPackage[];
  /** Ids of the groups an environment is made of; empty for a group. */
  readonly groups: string[];
}

/** The limits of a comps file. */
const MAX_GROUPS = 20_000;
const MAX_MEMBERS = 500_000;
const MAX_TEXT = 4096;

const TYPES = ['mandatory', 'default', 'optional', 'conditional'] as const;

/**
 * Reads a comps.xml piece by piece (the format of libcomps; dnf's `groupinstall`). Runs in a
 * confined child.
 */
export class CompsParser {
  readonly #parser = new SaxesParser();
  readonly #decoder = new TextDecoder('utf-8', { fatal: true });
  readonly #groups: Group[] = [];
  readonly #path: string[] = [];
  #members = 0;
  #text = '';
  #current: { -readonly [Key in keyof Group]: Group[Key] } | undefined;
  #package: GroupPackage = { name: '', type: 'mandatory' };

  constructor() {
    this.#parser.on('error', (cause) => {
      throw broken(cause.message);
    });
    this.#parser.on('opentag', (tag) => this.#open(tag.name, tag.attributes));
    this.#parser.on('closetag', (tag) => this.#close(tag.name));
    this.#parser.on('text', (text) => {
      if (this.#text.length < MAX_TEXT) this.#text += text;
    });
  }

  write(chunk: Buffer): void {
    this.#parser.write(this.#decoder.decode(chunk, { stream: true }));
  }

  /** @throws KilnError E_REPOSITORY_METADATA if the document is not complete and well-formed. */
  end(): Group[] {
    this.#parser.write(this.#decoder.decode());
    this.#parser.close();
    return this.#groups;
  }

  #open(name: string, attributes: Readonly<Record<string, string>>): void {
    this.#path.push(name);
    this.#text = '';
    if (this.#path.length === 2 && (name === 'group' || name === 'environment')) {
      this.#current = { kind: name, id: '', name: '', packages: [], groups: [] };
    }
    if (name === 'packagereq') {
      const type = TYPES.find((known) => known === attributes.type) ?? 'mandatory';
      const requires = attributes.requires;
      this.#package = { name: '', type, ...defined({ requires }) };
    }
    // Translated names are ignored.
    if (name === 'name' && attributes['xml:lang'] !== undefined)
      this.#path[this.#path.length - 1] = '';
  }

  #close(name: string): void {
    const text = this.#text.trim();
    this.#text = '';
    const opened = this.#path.join('/');
    this.#path.pop();
    const group = this.#current;
    if (group === undefined) return;
    switch (opened) {
      case `comps/${group.kind}/id`:
        group.id = text;
        break;
      case `comps/${group.kind}/name`:
        group.name = text;
        break;
      case 'comps/group/packagelist/packagereq':
        this.#count();
        group.packages.push({ ...this.#package, name: text });
        break;
      case 'comps/environment/grouplist/groupid':
        this.#count();
        group.groups.push(text);
        break;
    }
    if (this.#path.length === 1 && name === group.kind) {
      if (this.#groups.length >= MAX_GROUPS) throw broken('it has too many groups');
      this.#groups.push(group);
      this.#current = undefined;
    }
  }

  #count(): void {
    if (++this.#members > MAX_MEMBERS) throw broken('its groups have too many members');
  }
}

function broken(why: string): KilnError {
  return brokenMetadata('the comps file', why);
}
