#include "vdso.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "arch/x86_64.h"

struct symbols {
	const struct vdso *of;
	const Elf64_Sym *at;	/* not aligned */
	size_t count;
	const char *names;
	size_t names_size;	/* with a zero at the end */
};

static bool inside(const struct vdso *v, uint64_t at, uint64_t size)
{
	return at <= v->size && size <= v->size - at;
}

static int find_symbols(const struct vdso *v, struct symbols *ret)
{
	Elf64_Ehdr header;
	Elf64_Shdr table, strings;

	*ret = (struct symbols){ .of = v };
	if (!inside(v, 0, sizeof(header)))
		return -EPROTO;
	memcpy(&header, v->bytes, sizeof(header));
	if (memcmp(header.e_ident, ELFMAG, SELFMAG) || header.e_ident[EI_CLASS] != ELFCLASS64 ||
	    header.e_shentsize != sizeof(table) || !inside(v, header.e_shoff, header.e_shnum * sizeof(table)))
		return -EPROTO;
	for (size_t i = 0; i < header.e_shnum; i++) {
		memcpy(&table, v->bytes + header.e_shoff + i * sizeof(table), sizeof(table));
		if (table.sh_type == SHT_DYNSYM)
			break;
	}
	if (!header.e_shnum || table.sh_type != SHT_DYNSYM || table.sh_link >= header.e_shnum)
		return -EPROTO;
	memcpy(&strings, v->bytes + header.e_shoff + table.sh_link * sizeof(table), sizeof(strings));
	if (!inside(v, table.sh_offset, table.sh_size) || !inside(v, strings.sh_offset, strings.sh_size) || !strings.sh_size ||
	    v->bytes[strings.sh_offset + strings.sh_size - 1])
		return -EPROTO;
	ret->at = (const void *)(v->bytes + table.sh_offset);
	ret->count = table.sh_size / sizeof(*ret->at);
	ret->names = (const char *)v->bytes + strings.sh_offset;
	ret->names_size = strings.sh_size;
	return 0;
}

/* Returns the name of a function, NULL if this is none. */
static const char *function(const struct symbols *s, size_t i, Elf64_Sym *ret)
{
	memcpy(ret, (const uint8_t *)s->at + i * sizeof(*ret), sizeof(*ret));
	if (ELF64_ST_TYPE(ret->st_info) != STT_FUNC || ret->st_shndx == SHN_UNDEF || ret->st_name >= s->names_size)
		return NULL;
	return s->names + ret->st_name;
}

static uint64_t address_of(const struct symbols *s, const char *name)
{
	for (size_t i = 0; i < s->count; i++) {
		Elf64_Sym symbol;
		const char *found = function(s, i, &symbol);

		if (found && !strcmp(found, name))
			return symbol.st_value;
	}
	return 0;
}

static long call_of(const char *name)
{
	static const struct { const char *name; long nr; } calls[] = {
		{ "clock_gettime", SYS_clock_gettime }, { "clock_getres", SYS_clock_getres },
		{ "gettimeofday", SYS_gettimeofday }, { "time", SYS_time }, { "getcpu", SYS_getcpu },
		{ "getrandom", SYS_getrandom },
	};

	if (!strncmp(name, "__vdso_", 7))
		name += 7;
	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		if (!strcmp(calls[i].name, name))
			return calls[i].nr;
	return -1;
}

int vdso_redirect(struct vdso *old, const struct vdso *new, uint64_t new_at)
{
	struct symbols from, to;
	int err = find_symbols(old, &from) ?: find_symbols(new, &to);

	for (size_t i = 0; i < from.count && !err; i++) {
		Elf64_Sym symbol;
		const char *name = function(&from, i, &symbol);
		uint64_t there = name ? address_of(&to, name) : 0;
		uint8_t code[ARCH_JUMP_LENGTH];

		if (!name)
			continue;
		if (!inside(old, symbol.st_value, sizeof(code)) || symbol.st_size < sizeof(code))
			return -EPROTO;
		if (there)
			arch_write_jump(code, new_at + there);
		else
			arch_write_call(code, call_of(name));
		memcpy(old->bytes + symbol.st_value, code, sizeof(code));
	}
	return err;
}

bool vdso_is_overwritten(const struct vdso *old, uint64_t at)
{
	struct symbols s;
	bool found = false;

	if (find_symbols(old, &s))
		return false;
	for (size_t i = 0; i < s.count && !found; i++) {
		Elf64_Sym symbol;

		found = function(&s, i, &symbol) && at > symbol.st_value && at - symbol.st_value < ARCH_JUMP_LENGTH;
	}
	return found;
}

int vdso_read(pid_t tid, const struct memory_map *map, struct vdso *ret)
{
	const struct vma *vma = memory_map_named(map, "[vdso]");
	struct iovec local = { ret->bytes, 0 }, remote = { NULL, 0 };

	ret->size = vma ? vma->end - vma->start : 0;
	if (ret->size > sizeof(ret->bytes))
		return -E2BIG;
	local.iov_len = remote.iov_len = ret->size;
	remote.iov_base = vma ? (void *)vma->start : NULL;
	if (!vma || process_vm_readv(tid, &local, 1, &remote, 1, 0) == (ssize_t)ret->size)
		return 0;
	return -errno;
}

bool vdso_is_ours(const struct vdso *vdso)
{
	struct memory_map map;
	struct vdso ours;
	bool same = false;

	if (memory_map_read(getpid(), false, &map, NULL))
		return false;
	same = !vdso_read(getpid(), &map, &ours) && ours.size == vdso->size && !memcmp(ours.bytes, vdso->bytes, ours.size);
	memory_map_free(&map);
	return same;
}
