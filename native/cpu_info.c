/* cpu_info.c - what this CPU can do, in CRIU's image "cpuinfo": programs may use from their start on what they have found, so
 * that another CPU must be able to do it, too.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cpuinfo.pb-c.h"
#include "error.h"
#include "image.h"
#include "image_sink.h"

/* The words of Linux's x86_capability, as CRIU takes them. */
enum {
	EDX_1, EDX_80000001, TRANSMETA, LINUX_1, ECX_1, CENTAUR, ECX_80000001, LINUX_2, LINUX_3, EBX_7, EAX_D_1, ECX_7, EDX_F_1,
	EBX_80000008, EAX_6, EDX_8000000A, EDX_F_0, EBX_80000007, EDX_7, WORDS
};

#define WORDS_VERSION 2
#define LINUX_REP_GOOD (1u << 16)
#define LINUX_NOPL (1u << 20)
#define LINUX_CPUID (1u << 25)
/* x87, AVX, MPX, AVX-512, PKRU: what the kernel keeps for programs and CRIU knows. CRIU leaves SSE out, which all have. */
#define USER_XFEATURES 0x2fdull

static const struct feature {
	const char *name;
	uint8_t word, bit;
} features[] = {
	{ "fpu", EDX_1, 0 }, { "tsc", EDX_1, 4 }, { "cx8", EDX_1, 8 }, { "sep", EDX_1, 11 }, { "cmov", EDX_1, 15 }, { "clflush", EDX_1, 19 },
	{ "mmx", EDX_1, 23 }, { "fxsr", EDX_1, 24 }, { "sse", EDX_1, 25 }, { "sse2", EDX_1, 26 },
	{ "syscall", EDX_80000001, 11 }, { "mmxext", EDX_80000001, 22 }, { "rdtscp", EDX_80000001, 27 }, { "3dnowext", EDX_80000001, 30 },
	{ "3dnow", EDX_80000001, 31 },
	{ "sse3", ECX_1, 0 }, { "pclmulqdq", ECX_1, 1 }, { "monitor", ECX_1, 3 }, { "ssse3", ECX_1, 9 }, { "fma", ECX_1, 12 },
	{ "cx16", ECX_1, 13 }, { "sse4_1", ECX_1, 19 }, { "sse4_2", ECX_1, 20 }, { "movbe", ECX_1, 22 }, { "popcnt", ECX_1, 23 },
	{ "aes", ECX_1, 25 }, { "xsave", ECX_1, 26 }, { "osxsave", ECX_1, 27 }, { "avx", ECX_1, 28 }, { "f16c", ECX_1, 29 },
	{ "rdrand", ECX_1, 30 },
	{ "abm", ECX_80000001, 5 }, { "sse4a", ECX_80000001, 6 }, { "misalignsse", ECX_80000001, 7 }, { "3dnowprefetch", ECX_80000001, 8 },
	{ "xop", ECX_80000001, 11 }, { "fma4", ECX_80000001, 16 }, { "tbm", ECX_80000001, 21 },
	{ "fsgsbase", EBX_7, 0 }, { "bmi1", EBX_7, 3 }, { "hle", EBX_7, 4 }, { "avx2", EBX_7, 5 }, { "bmi2", EBX_7, 8 }, { "erms", EBX_7, 9 },
	{ "rtm", EBX_7, 11 }, { "mpx", EBX_7, 14 }, { "avx512f", EBX_7, 16 }, { "avx512dq", EBX_7, 17 }, { "rdseed", EBX_7, 18 },
	{ "adx", EBX_7, 19 }, { "avx512ifma", EBX_7, 21 }, { "clflushopt", EBX_7, 23 }, { "clwb", EBX_7, 24 }, { "avx512pf", EBX_7, 26 },
	{ "avx512er", EBX_7, 27 }, { "avx512cd", EBX_7, 28 }, { "sha_ni", EBX_7, 29 }, { "avx512bw", EBX_7, 30 }, { "avx512vl", EBX_7, 31 },
	{ "xsaveopt", EAX_D_1, 0 }, { "xsavec", EAX_D_1, 1 }, { "xgetbv1", EAX_D_1, 2 }, { "xsaves", EAX_D_1, 3 },
	{ "avx512vbmi", ECX_7, 1 }, { "pku", ECX_7, 3 }, { "avx512_vbmi2", ECX_7, 6 }, { "gfni", ECX_7, 8 }, { "vaes", ECX_7, 9 },
	{ "vpclmulqdq", ECX_7, 10 }, { "avx512_vnni", ECX_7, 11 }, { "avx512_bitalg", ECX_7, 12 }, { "avx512_vpopcntdq", ECX_7, 14 },
	{ "rdpid", ECX_7, 22 }, { "clzero", EBX_80000008, 0 }, { "avx512_4vnniw", EDX_7, 2 }, { "avx512_4fmaps", EDX_7, 3 },
};

struct cpu {
	CpuinfoX86Entry entry;
	uint32_t words[WORDS];
	char model[49];
};

/* A register of a leaf; 0 if the CPU hasn't that one. */
static uint32_t ask(uint32_t leaf, uint32_t subleaf, int number)
{
	uint32_t r[4] = {0};

	return __get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]) ? r[number] : 0;
}

enum { EAX, EBX, ECX, EDX };

static void read_words(uint32_t words[WORDS])
{
	static const struct { uint8_t word; uint32_t leaf, subleaf; int number; } from[] = {
		{ EDX_1, 1, 0, EDX }, { EDX_80000001, 0x80000001, 0, EDX }, { ECX_1, 1, 0, ECX }, { ECX_80000001, 0x80000001, 0, ECX },
		{ EBX_7, 7, 0, EBX }, { EAX_D_1, 0xd, 1, EAX }, { ECX_7, 7, 0, ECX }, { EBX_80000008, 0x80000008, 0, EBX },
		{ EAX_6, 6, 0, EAX }, { EDX_8000000A, 0x8000000a, 0, EDX }, { EDX_F_0, 0xf, 0, EDX },
		{ EBX_80000007, 0x80000007, 0, EBX }, { EDX_7, 7, 0, EDX },
	};

	for (size_t i = 0; i < sizeof(from) / sizeof(*from); i++)
		words[from[i].word] = ask(from[i].leaf, from[i].subleaf, from[i].number);
	words[LINUX_1] = LINUX_REP_GOOD | LINUX_NOPL | LINUX_CPUID;
}

static void read_model(struct cpu *c)
{
	uint32_t signature = ask(1, 0, EAX), family = signature >> 8 & 0xf, words[12] = {0};

	c->entry.model = (signature >> 4 & 0xf) + (family >= 6 ? (signature >> 16 & 0xf) << 4 : 0);
	c->entry.cpu_family = family + (family == 0xf ? signature >> 20 & 0xff : 0);
	c->entry.stepping = signature & 0xf;
	for (size_t i = 0; i < 12; i++)
		words[i] = ask(0x80000002 + i / 4, 0, i % 4);
	memcpy(c->model, words, sizeof(words));
	c->entry.model_id = c->model + strspn(c->model, " ");
}

static void read_cpu(struct cpu *c)
{
	uint32_t vendor[3] = { ask(0, 0, EBX), ask(0, 0, EDX), ask(0, 0, ECX) };

	memset(c, 0, sizeof(*c));
	cpuinfo_x86_entry__init(&c->entry);
	c->entry.vendor_id = memcmp(vendor, "GenuineIntel", 12) ? CPUINFO_X86_ENTRY__VENDOR__AMD : CPUINFO_X86_ENTRY__VENDOR__INTEL;
	read_model(c);
	read_words(c->words);
	c->entry.capability_ver = WORDS_VERSION;
	c->entry.n_capability = WORDS;
	c->entry.capability = c->words;
	c->entry.has_xfeatures_mask = c->entry.has_xsave_size = c->entry.has_xsave_size_max = true;
	c->entry.xfeatures_mask = (ask(0xd, 0, EAX) | (uint64_t)ask(0xd, 0, EDX) << 32) & USER_XFEATURES;
	c->entry.xsave_size = ask(0xd, 0, EBX);
	c->entry.xsave_size_max = ask(0xd, 0, ECX);
}

int phaul_cpuinfo_dump(int directory, struct phaul_error *err)
{
	CpuinfoX86Entry *entries[1];
	CpuinfoEntry info = CPUINFO_ENTRY__INIT;
	struct image_set *images = image_set_new();
	struct cpu cpu;
	int code;

	read_cpu(&cpu);
	entries[0] = &cpu.entry;
	info.x86_entry = entries;
	info.n_x86_entry = 1;
	code = images ? image_put(images, "cpuinfo", -1, &info.base) : -ENOMEM;
	code = code ? phaul_fail(err, code, "cpuinfo", "writing cpuinfo.img") :
	       image_set_save(images, &(struct image_sink){ .directory = directory, .file = -1, .err = err });
	image_set_free(images);
	return code;
}

static size_t add_name(char *names, size_t size, size_t used, const char *name)
{
	return used < size ? used + snprintf(names + used, size - used, "%s%s", used ? ", " : "", name) : used;
}

static int compare_instructions(const CpuinfoX86Entry *then, const struct cpu *now, struct phaul_error *err)
{
	char names[128] = "";
	size_t used = 0;

	for (size_t i = 0; i < sizeof(features) / sizeof(*features); i++) {
		const struct feature *f = &features[i];

		if (f->word < then->n_capability && then->capability[f->word] >> f->bit & 1 && !(now->words[f->word] >> f->bit & 1))
			used = add_name(names, sizeof(names), used, f->name);
	}
	return used ? phaul_fail(err, -EOPNOTSUPP, "cpuinfo", "this CPU lacks %s, which programs may use that began on a %s (capability)", names,
				 then->model_id ?: "CPU that has them") : 0;
}

/* Programs lay out memory by its size. */
static int compare_registers(const CpuinfoX86Entry *then, const struct cpu *now, struct phaul_error *err)
{
	if (then->has_xfeatures_mask && then->xfeatures_mask & ~now->entry.xfeatures_mask)
		return phaul_fail(err, -EOPNOTSUPP, "cpuinfo", "this CPU lacks registers that the other one has (xfeatures_mask %llx, here %llx)",
				  (unsigned long long)then->xfeatures_mask, (unsigned long long)now->entry.xfeatures_mask);
	if ((then->has_xsave_size && then->xsave_size != now->entry.xsave_size) ||
	    (then->has_xsave_size_max && then->xsave_size_max != now->entry.xsave_size_max))
		return phaul_fail(err, -EOPNOTSUPP, "cpuinfo", "registers take %u bytes here (xsave_size; at most %u), and %u (%u) on the other CPU",
				  now->entry.xsave_size, now->entry.xsave_size_max, then->xsave_size, then->xsave_size_max);
	return 0;
}

static int compare(const CpuinfoX86Entry *then, uint32_t what, struct phaul_error *err)
{
	struct cpu now;
	int code = 0;

	read_cpu(&now);
	if (what & PHAUL_CPU_REGISTERS)
		code = compare_registers(then, &now, err);
	if (!code && what & PHAUL_CPU_INSTRUCTIONS)
		code = compare_instructions(then, &now, err);
	if (!code && what & PHAUL_CPU_SAME &&
	    (then->n_capability != WORDS || memcmp(then->capability, now.words, sizeof(now.words))))
		code = phaul_fail(err, -EOPNOTSUPP, "cpuinfo", "this CPU is not the same as the other one, a %s (capability)",
				  then->model_id ?: "CPU without a name");
	return code;
}

int phaul_cpuinfo_check(int directory, uint32_t what, struct phaul_error *err)
{
	struct image_set *images = NULL;
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;
	const CpuinfoEntry *info;
	int code = image_set_load(directory, &images, err);

	if (code)
		return code;
	if (image_read(images, "cpuinfo", -1, &reader) || image_next(&reader, &cpuinfo_entry__descriptor, &msg) != 1) {
		image_set_free(images);
		return image_malformed("cpuinfo", -1, err);
	}
	info = (CpuinfoEntry *)msg;
	code = info->n_x86_entry == 1 ? compare(info->x86_entry[0], what, err) :
	       phaul_fail(err, -EPROTO, "cpuinfo", "cpuinfo.img is not of one x86 CPU (x86_entry)");
	protobuf_c_message_free_unpacked(msg, NULL);
	image_set_free(images);
	return code;
}
