/** A table in Markdown, printed row by row. */
export interface Row {
  cells: string[];
  asExpected: boolean;
}

const line = (cells: string[]): string => `| ${cells.join(' | ')} |`;

export const printHeader = (cells: string[]): boolean => process.stdout.write(`\n${line(cells)}\n${line(cells.map(() => '---'))}\n`);
export const printRow = ({ cells, asExpected }: Row): boolean => process.stdout.write(`${line(cells)}${asExpected ? '' : ' NOT AS EXPECTED'}\n`);
