import type { BinaryOperator } from './syntax.ts';
import { asText, type ConfigValue, isDict, isList } from './values.ts';

/** The most characters of a text: `x += x` doubles it. */
const TEXT_LIMIT = 16 * 1024 * 1024;

/** The most entries of a list. */
const LIST_LIMIT = 65536;

/** Joins texts. @throws RangeError for one that is longer than {@link TEXT_LIMIT} */
export function joinTexts(texts: readonly string[], between: string): string {
  const length = texts.reduce((sum, text) => sum + text.length + between.length, 0);
  if (length > TEXT_LIMIT + between.length) throw new RangeError('this is too long');
  return texts.join(between);
}

/** The error for operands that an operator does not accept. */
export class Unfit {
  readonly why: string;

  constructor(why: string) {
    this.why = why;
  }
}

/** The result of `left operator right`, except `and` and `or`, which may not need the right side. */
export function operate(
  operator: Exclude<BinaryOperator, 'and' | 'or'>,
  left: ConfigValue,
  right: ConfigValue,
): ConfigValue | Unfit {
  switch (operator) {
    case '==':
      return equal(left, right);
    case '!=':
      return !equal(left, right);
    case 'in':
      return contains(right, left);
    case 'not in': {
      const found = contains(right, left);
      return found instanceof Unfit ? found : !found;
    }
    case '+':
      return add(left, right);
    case '%':
      return format(left, right);
    default:
      return compare(operator, left, right);
  }
}

/** Python's `==` for texts, numbers and lists of them; dicts are only equal to themselves. */
export function equal(left: ConfigValue, right: ConfigValue): boolean {
  if (isList(left) && isList(right)) {
    return left.length === right.length && left.every((item, index) => equal(item, right[index]));
  }
  return left === right;
}

function contains(container: ConfigValue, value: ConfigValue): boolean | Unfit {
  if (typeof container === 'string') return container.includes(asText(value));
  if (isDict(container)) return container.has(asText(value));
  if (isList(container)) return container.some((item) => equal(item, value));
  return new Unfit('`in` needs a text, a list or a dict');
}

function add(left: ConfigValue, right: ConfigValue): ConfigValue | Unfit {
  if (typeof left === 'number' && typeof right === 'number') return left + right;
  const tooLong = new Unfit('this is too long');
  if (typeof left === 'string' && typeof right === 'string') {
    return left.length + right.length > TEXT_LIMIT ? tooLong : left + right;
  }
  if (isList(left) && isList(right)) {
    return left.length + right.length > LIST_LIMIT ? tooLong : [...left, ...right];
  }
  return new Unfit('only two texts, numbers or lists can be added');
}

function compare(
  operator: '<' | '<=' | '>' | '>=',
  left: ConfigValue,
  right: ConfigValue,
): boolean | Unfit {
  const comparable =
    (typeof left === 'number' && typeof right === 'number') ||
    (typeof left === 'string' && typeof right === 'string');
  if (!comparable) return new Unfit('only numbers and texts can be compared');
  if (left === right) return operator.length === 2;
  return operator.startsWith('<') ? left < right : left > right;
}

/** `'%s/%s' % (a, b)` and `'%(name)s' % {…}`, with %s, %d, %r and %%. */
function format(left: ConfigValue, right: ConfigValue): string | Unfit {
  if (typeof left !== 'string') return new Unfit('% is only understood after a text');
  const values = isList(right) ? [...right] : [right];
  let problem: string | undefined;
  const text = left.replace(
    /%(?:\((\w+)\))?([\s\S]?)/g,
    (whole, name: string | undefined, kind: string) => {
      if (kind === '%') return '%';
      if (!'sdr'.includes(kind) || kind === '') problem = `${whole} is not understood`;
      else if (name !== undefined) {
        if (isDict(right) && right.has(name)) return asText(right.get(name));
        problem = `there is nothing for ${whole}`;
      } else if (values.length === 0) problem = 'there are too few values for %';
      return asText(values.shift());
    },
  );
  return problem === undefined ? text : new Unfit(problem);
}
