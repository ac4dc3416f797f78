import { SaxesParser } from 'saxes';
import { defined } from '../../../defined.ts';
import type { Group, GroupPackage } from './read-index.ts';
import { metadataError } from './repomd.ts';

const TYPES = ['mandatory', 'default', 'optional', 'conditional'] as const;

const broken = (why: string) => metadataError('the comps file', why);

const MAX_GROUPS = 20_000;
const MAX_MEMBERS = 500_000;
const MAX_TEXT = 4096;

export class CompsParser {
  readonly #parser = new SaxesParser();
  readonly #decoder = new TextDecoder('utf-8', { fatal: true });
  readonly #groups: Group[] = [];
  readonly #path: string[] = [];
  #members = 0;
  #text = '';
  #current: Group | undefined;
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
      const { requires } = attributes;
      const type = TYPES.find((known) => known === attributes.type) ?? 'mandatory';
      this.#package = { name: '', type, ...defined({ requires }) };
    }
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
    if (opened === `comps/${group.kind}/id`) group.id = text;
    if (opened === `comps/${group.kind}/name`) group.name = text;
    if (opened === 'comps/group/packagelist/packagereq') {
      this.#count();
      group.packages.push({ ...this.#package, name: text });
    }
    if (opened === 'comps/environment/grouplist/groupid') {
      this.#count();
      group.groups.push(text);
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
