/** A pseudo terminal keeps its number, by which programs know it. */
import { existsSync } from 'node:fs';
import type { Check } from '../preflight.ts';

export const checkTerminals: Check = ({ terminals, comm }, host) =>
  terminals
    .filter((number) => existsSync(`/dev/pts/${number}`))
    .map((number) => ({
      code: 'TERMINAL_TAKEN',
      subject: `terminal /dev/pts/${number}`,
      sentence: `/dev/pts/${number}, which ${comm} has as a terminal, is another program's on ${host}, and a terminal's name can't change: close that one first ("fuser /dev/pts/${number}" there tells whose it is).`,
    }));
