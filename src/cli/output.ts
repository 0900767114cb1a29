/** Writing to a terminal or pipe that may go away: a closed pipe must not stop a migration. */

export interface Output {
  write(text: string): void;
  isTTY: boolean;
  columns: number;
}

export function openOutput(stream: NodeJS.WriteStream): Output {
  let closed = false;
  stream.on('error', () => {
    closed = true;
  });
  return {
    write: (text) => {
      if (!closed) {
        stream.write(text);
      }
    },
    isTTY: stream.isTTY === true,
    get columns() {
      return stream.columns ?? 80;
    },
  };
}
