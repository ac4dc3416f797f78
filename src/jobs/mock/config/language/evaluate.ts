import {
  CHANGING,
  callFunction,
  dictMethod,
  joinTexts,
  listMethod,
  operate,
  textMethod,
  Unfit,
} from './operators.ts';
import type { Expression, Statement } from './parse.ts';
import {
  asText,
  ConfigOptions,
  type ConfigValue,
  configError,
  isDict,
  isList,
  isTrue,
  type Place,
} from './values.ts';

interface EvaluationContext {
  readonly options: ConfigOptions;
  readonly file: string;
  readonly include: (name: string, place: Place) => void;
  readonly warn: (message: string, place: Place) => void;
}

export function evaluate(statements: readonly Statement[], context: EvaluationContext): void {
  new Evaluator(context).run(statements);
}

class Evaluator {
  readonly #context: EvaluationContext;
  readonly #variables = new Map<string, ConfigValue>();

  constructor(context: EvaluationContext) {
    this.#context = context;
  }

  run(statements: readonly Statement[]): void {
    for (const statement of statements) {
      try {
        this.#do(statement);
      } catch (cause) {
        if (!(cause instanceof RangeError)) throw cause;
        throw configError(`this asks for too much: ${cause.message}`, this.#at(statement.line), {
          cause,
        });
      }
    }
  }

  #do(statement: Statement): void {
    const { line } = statement;
    if (statement.kind === 'import') {
      this.#context.warn(`\`${statement.text}\` is left out: nothing is imported`, this.#at(line));
    } else if (statement.kind === 'assign') {
      const value = this.#value(statement.value);
      const { target, add } = statement;
      const before = add ? this.#value(target) : undefined;
      const whole = add ? this.#fit(line, () => operate('+', before, value)) : value;
      this.#assign(target, whole, line);
    } else if (statement.kind === 'delete') this.#delete(statement.target, line);
    else this.#effect(statement.expression, line);
  }

  #effect(expression: Expression, line: number): void {
    const callee = expression.kind === 'call' ? expression.callee : undefined;
    if (expression.kind !== 'call' || callee?.kind !== 'name' || callee.name !== 'include') {
      this.#value(expression);
      return;
    }
    const [name] = expression.arguments.map((argument) => this.#value(argument));
    if (typeof name !== 'string') throw this.#error('include() needs the name of a file', line);
    this.#context.include(name, this.#at(line));
  }

  #assign(target: Expression, value: ConfigValue, line: number): void {
    if (target.kind === 'name') {
      if (target.name === 'config_opts') {
        throw this.#error('config_opts as a whole cannot be replaced', line);
      }
      this.#variables.set(target.name, value);
      return;
    }
    const { owner, key } = this.#itemOf(target, line);
    if (owner instanceof ConfigOptions) owner.set(String(key), value, this.#at(line));
    else if (isDict(owner) && key !== undefined) owner.set(asText(key), value);
    else if (isList(owner) && typeof key === 'number' && key >= 0 && key < owner.length) {
      (owner as ConfigValue[])[key] = value;
    } else throw this.#error('only items of dicts and lists can be assigned to', line);
    this.#touch(target, line);
  }

  #delete(target: Expression, line: number): void {
    if (target.kind === 'name') {
      this.#variables.delete(target.name);
      return;
    }
    const { owner, key } = this.#itemOf(target, line);
    if (owner instanceof ConfigOptions) owner.delete(String(key));
    else if (isDict(owner)) owner.delete(asText(key));
    else throw this.#error('only items of dicts can be deleted', line);
  }

  #touch(expression: Expression, line: number): void {
    let it = expression;
    while (it.kind === 'item' || it.kind === 'attribute') {
      const { of } = it;
      if (of.kind === 'name' && of.name === 'config_opts') {
        const name = it.kind === 'item' ? this.#value(it.key) : it.name;
        this.#context.options.touch(asText(name), this.#at(line));
        return;
      }
      it = of;
    }
  }

  #itemOf(target: Expression, line: number) {
    if (target.kind === 'item') {
      return { owner: this.#owner(target.of), key: this.#value(target.key) };
    }
    if (target.kind === 'attribute') {
      const owner = this.#owner(target.of);
      if (owner instanceof ConfigOptions) return { owner, key: target.name };
    }
    throw this.#error('only names and items can be assigned to', line);
  }

  #owner(expression: Expression): ConfigValue | ConfigOptions {
    if (expression.kind === 'name' && expression.name === 'config_opts') {
      return this.#context.options;
    }
    return this.#value(expression);
  }

  #value(expression: Expression): ConfigValue {
    switch (expression.kind) {
      case 'constant':
        return expression.value;
      case 'list':
        return expression.items.map((item) => this.#value(item));
      case 'dict':
        return new Map(
          expression.entries.map(([key, value]) => [asText(this.#value(key)), this.#value(value)]),
        );
      case 'join':
        return joinTexts(
          expression.parts.map((part) => asText(this.#value(part))),
          '',
        );
      case 'name':
        return this.#name(expression.name, expression.line);
      case 'item':
        return this.#item(this.#owner(expression.of), this.#value(expression.key), expression.line);
      case 'attribute': {
        const owner = this.#owner(expression.of);
        if (owner instanceof ConfigOptions) {
          return this.#item(owner, expression.name, expression.line);
        }
        throw this.#error(`.${expression.name} is not understood`, expression.line);
      }
      case 'call':
        return this.#call(expression);
      case 'not':
        return !isTrue(this.#value(expression.of));
      case 'negative': {
        const value = this.#value(expression.of);
        if (typeof value === 'number') return -value;
        throw this.#error('only numbers have a sign', expression.line);
      }
      case 'choice':
        return this.#value(
          isTrue(this.#value(expression.condition)) ? expression.then : expression.otherwise,
        );
      case 'binary':
        return this.#binary(expression);
    }
  }

  #name(name: string, line: number): ConfigValue {
    if (this.#variables.has(name)) return this.#variables.get(name);
    if (name === 'config_opts') {
      throw this.#error('config_opts is only understood with an item: config_opts[…]', line);
    }
    throw this.#error(`${name} is not understood: it was not set before`, line);
  }

  #item(owner: ConfigValue | ConfigOptions, key: ConfigValue, line: number): ConfigValue {
    if (owner instanceof ConfigOptions || isDict(owner)) {
      const name = asText(key);
      if (owner.has(name)) return owner.get(name);
      throw this.#error(`there is no ${JSON.stringify(name)} yet`, line);
    }
    if ((isList(owner) || typeof owner === 'string') && typeof key === 'number') {
      const found = owner.at(key);
      if (found !== undefined) return found;
    }
    throw this.#error('there is no such item', line);
  }

  #binary(expression: Extract<Expression, { kind: 'binary' }>): ConfigValue {
    const { operator, line } = expression;
    const left = this.#value(expression.left);
    if (operator === 'and' && !isTrue(left)) return left;
    if (operator === 'or' && isTrue(left)) return left;
    const right = this.#value(expression.right);
    if (operator === 'and' || operator === 'or') return right;
    return this.#fit(line, () => operate(operator, left, right));
  }

  #fit(line: number, work: () => ConfigValue): ConfigValue {
    try {
      return work();
    } catch (error) {
      throw error instanceof Unfit ? this.#error(error.message, line) : error;
    }
  }

  #call(expression: Extract<Expression, { kind: 'call' }>): ConfigValue {
    const { callee, line } = expression;
    const values = expression.arguments.map((argument) => this.#value(argument));
    if (callee.kind === 'name') return this.#fit(line, () => callFunction(callee.name, values));
    if (callee.kind !== 'attribute') throw this.#error('this call is not understood', line);
    const owner = this.#owner(callee.of);
    const method = callee.name;
    let result: { readonly value: ConfigValue } | undefined;
    if (typeof owner === 'string') result = textMethod(owner, method, values);
    else if (isList(owner as ConfigValue))
      result = listMethod(owner as ConfigValue[], method, values);
    else if (owner instanceof ConfigOptions || isDict(owner)) {
      result = dictMethod(owner, method, values, this.#at(line));
    }
    if (result === undefined) throw this.#error(`.${method}() is not understood`, line);
    if (CHANGING.has(method)) this.#touch(callee.of, line);
    return result.value;
  }

  #at(line: number): Place {
    return { file: this.#context.file, line };
  }

  #error(message: string, line: number) {
    return configError(message, this.#at(line));
  }
}
