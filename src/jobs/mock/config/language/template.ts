import { Environment, Interpreter, parse, tokenize } from '@huggingface/jinja';
import { reasonOf } from '../../../../errors.ts';
import { joinTexts } from './operators.ts';
import {
  asText,
  type ConfigOptions,
  type ConfigValue,
  configError,
  isDict,
  isList,
} from './values.ts';

const MAX_PASSES = 8;

/** Executed expressions and statements of a template; mock's need some hundred. */
const MAX_STEPS = 200_000;

/**
 * A configuration's values with their Jinja templates filled in, as by mock: templates see all options, which are
 * filled in first. The interpreter compiles nothing; templates see plain values only.
 */
export class Templates {
  readonly #options: ConfigOptions;
  readonly #done = new Map<string, ConfigValue>();
  readonly #active: string[] = [];

  constructor(options: ConfigOptions) {
    this.#options = options;
  }

  value(name: string): ConfigValue {
    if (this.#done.has(name)) return this.#done.get(name);
    if (this.#active.includes(name)) {
      const cycle = [...this.#active.slice(this.#active.indexOf(name)), name].join(' → ');
      throw configError(
        `the template of ${name} needs itself: ${cycle}`,
        this.#options.placeOf(name),
      );
    }
    this.#active.push(name);
    try {
      const value = this.#fill(this.#options.get(name), name);
      this.#done.set(name, value);
      return value;
    } finally {
      this.#active.pop();
    }
  }

  #fill(value: ConfigValue, name: string): ConfigValue {
    if (typeof value === 'string') return this.#render(value, name);
    if (isList(value)) return value.map((item) => this.#fill(item, name));
    if (isDict(value)) {
      return new Map([...value].map(([key, item]) => [key, this.#fill(item, name)]));
    }
    return value;
  }

  #render(text: string, name: string): string {
    let result = text;
    for (let pass = 0; /\{[{%#]/.test(result); pass++) {
      if (pass === MAX_PASSES) {
        throw configError(`the template of ${name} has no end`, this.#options.placeOf(name));
      }
      const next = this.#once(result, name);
      if (next === result) return result;
      result = next;
    }
    return result;
  }

  #once(template: string, name: string): string {
    const environment = new Environment();
    const constants = {
      true: true,
      false: false,
      none: null,
      True: true,
      False: false,
      None: null,
    };
    for (const [key, value] of Object.entries(constants)) environment.set(key, value);
    environment.set('range', range);
    for (const key of this.#namesIn(template)) {
      // An option in its own template is text that must stay.
      if (this.#active.includes(key)) continue;
      const value = plain(this.value(key));
      if (value !== undefined) environment.set(key, value);
    }
    try {
      const program = parse(tokenize(template, { lstrip_blocks: false, trim_blocks: false }));
      const text = asText(boundedInterpreter(environment).run(program).value);
      // The parser drops the end of a template's last line; mock keeps it.
      return template.endsWith('\n') ? `${text}\n` : text;
    } catch (cause) {
      if (cause instanceof Error && cause.name === 'KilnError') throw cause;
      const what = reasonOf(cause);
      throw configError(
        `the template in ${name} is not understood: ${what}`,
        this.#options.placeOf(name),
        {
          cause,
          hint: 'kiln knows the common part of Jinja: values, filters, if, for, set, macro',
        },
      );
    }
  }

  #namesIn(template: string): Set<string> {
    const tags = template.match(/\{\{[\s\S]*?\}\}|\{%[\s\S]*?%\}/g) ?? [];
    const words = tags.join(' ').match(/[A-Za-z_]\w*/g) ?? [];
    return new Set(words.filter((word) => this.#options.has(word)));
  }
}

const MAX_RANGE = 10_000;

function range(first: number, end?: number, step = 1): number[] {
  const [from, to] = end === undefined ? [0, first] : [first, end];
  const length = Math.max(0, Math.ceil((to - from) / step));
  if (!(length <= MAX_RANGE)) throw new RangeError(`range() gives more than ${MAX_RANGE} numbers`);
  return Array.from({ length }, (_, index) => from + index * step);
}

interface RuntimeValue {
  readonly type: string;
  value: unknown;
  toString(): string;
}

interface Evaluating {
  evaluate(node: { readonly type: string }, environment: unknown): RuntimeValue;
  evaluateBlock(nodes: readonly { readonly type: string }[], environment: unknown): RuntimeValue;
  run(program: unknown): { readonly value: ConfigValue };
}

/** An interpreter with a limit of steps, because nested loops could run too long. */
function boundedInterpreter(environment: Environment): Evaluating {
  const interpreter = new Interpreter(environment) as unknown as Evaluating;
  const evaluate = interpreter.evaluate.bind(interpreter);
  const evaluateBlock = interpreter.evaluateBlock.bind(interpreter);
  let steps = 0;
  interpreter.evaluate = (...given) => {
    steps += 1;
    if (steps > MAX_STEPS) throw new Error(`it takes more than ${MAX_STEPS} steps`);
    return evaluate(...given);
  };
  interpreter.evaluateBlock = (nodes, scope) => {
    const written = nodes.map((node) => pythonText(node.type, interpreter.evaluate(node, scope)));
    // The class of texts is not exported, but an empty block evaluates to one.
    const result = evaluateBlock([], scope);
    result.value = joinTexts(written, '');
    return result;
  };
  return interpreter;
}

const SILENT = new Set(['Set', 'Macro', 'Comment', 'Break', 'Continue']);

/** The output of a template's node, in Python's words where JavaScript's differ. */
function pythonText(node: string, value: RuntimeValue): string {
  if (SILENT.has(node) || value.type === 'UndefinedValue') return '';
  if (value.type === 'NullValue') return asText(null);
  return typeof value.value === 'boolean' ? asText(value.value) : value.toString();
}

function plain(value: ConfigValue): unknown {
  if (isList(value)) return value.map(plain);
  if (isDict(value)) return Object.fromEntries([...value].map(([key, item]) => [key, plain(item)]));
  return value;
}
