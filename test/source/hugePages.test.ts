import test from 'ava';
import { parseHugeMappings, sumHugePages } from '../../src/source/hugePages.ts';

const MIB = 2 ** 20;

const mapping = (range: string, protection: string, inode: number, path: string, touchedKb: number, flags: string, pageKb = 2048): string =>
  [
    `${range} ${protection} 00000000 00:11 ${inode}                   ${path}`,
    `KernelPageSize:     ${pageKb} kB`,
    `Private_Hugetlb:       ${touchedKb} kB`,
    'Shared_Hugetlb:        0 kB',
    `VmFlags: ${flags} `,
    '',
  ].join('\n');

const PRIVATE = mapping('7f0000000000-7f0000800000', 'rw-p', 11, '/anon_hugepage (deleted)', 2048, 'rd wr mr mw me de ht');
const UNRESERVED = mapping('7f0000800000-7f0001000000', 'rw-p', 12, '/anon_hugepage (deleted)', 2048, 'rd wr mr mw me de nr ht');
const SHARED = mapping('7f0001000000-7f0001400000', 'rw-s', 13, '/anon_hugepage (deleted)', 0, 'rd wr sh mr mw me ms de ht');
const GIGANTIC = mapping('7f0040000000-7f0080000000', 'rw-s', 14, '/memfd:x (deleted)', 0, 'rd wr sh mr mw me ms de ht', 1_048_576);
const SMALL = mapping('7f0001400000-7f0001800000', 'rw-s', 15, '/memfd:x (deleted)', 0, 'rd wr sh mr mw me ms sd', 4);

test('what is reserved counts, touched or not; where nothing is reserved, what was touched', (t) => {
  t.deepEqual(sumHugePages(parseHugeMappings(1, PRIVATE)), [{ pageBytes: 2 * MIB, bytes: 8 * MIB }]);
  t.deepEqual(sumHugePages(parseHugeMappings(1, UNRESERVED)), [{ pageBytes: 2 * MIB, bytes: 2 * MIB }]);
  t.deepEqual(sumHugePages(parseHugeMappings(1, SMALL)), []);
});

test('what processes share counts once, what each has for itself is added up, by the size of the pages', (t) => {
  const all = PRIVATE + UNRESERVED + SHARED + GIGANTIC + SMALL;
  const held = [...parseHugeMappings(1, all), ...parseHugeMappings(2, all), { id: 'inode 13', pageBytes: 2 * MIB, bytes: 6 * MIB }];
  t.deepEqual(sumHugePages(held), [{ pageBytes: 2 * MIB, bytes: 2 * (8 + 2) * MIB + 6 * MIB }, { pageBytes: 1024 * MIB, bytes: 1024 * MIB }]);
});
