/** `1 package`, `2 packages`: a count and what is counted, as a sentence has them. */
export function counted(count: number, one: string, several = `${one}s`): string {
  return `${count} ${count === 1 ? one : several}`;
}
