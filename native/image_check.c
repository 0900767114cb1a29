/* image_check.c - which image, which entry and which field is not what it should be: protobuf-c says of a damaged message only
 * that it is one.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "credentials.pb-c.h"
#include "error.h"
#include "ghosts.pb-c.h"
#include "image.h"
#include "ipc.pb-c.h"
#include "locks.pb-c.h"
#include "memfd.pb-c.h"
#include "sockets.pb-c.h"
#include "tty.pb-c.h"

#define FIELDS_MAX 128		/* of a message; none has more */
#define PATH_SIZE 96

/* ---- one message ---- */

struct fault {
	char path[PATH_SIZE];	/* "vmas[3].start" */
	const char *what;
};

static bool get_varint(const uint8_t **at, const uint8_t *end, uint64_t *ret)
{
	*ret = 0;
	for (unsigned shift = 0; *at < end && shift < 70; shift += 7) {
		uint8_t byte = *(*at)++;

		*ret |= shift < 64 ? (uint64_t)(byte & 0x7f) << shift : 0;
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

static unsigned wire_type(const ProtobufCFieldDescriptor *field)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return PROTOBUF_C_WIRE_TYPE_64BIT;
	case PROTOBUF_C_TYPE_FIXED32:
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_FLOAT:
		return PROTOBUF_C_WIRE_TYPE_32BIT;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_BYTES:
	case PROTOBUF_C_TYPE_MESSAGE:
		return PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
	default:
		return PROTOBUF_C_WIRE_TYPE_VARINT;
	}
}

/* Points behind the value, and says how long the bytes of it are. */
static bool skip_value(const uint8_t **at, const uint8_t *end, unsigned wire, uint64_t *ret_size)
{
	uint64_t number;

	*ret_size = wire == PROTOBUF_C_WIRE_TYPE_64BIT ? 8 : wire == PROTOBUF_C_WIRE_TYPE_32BIT ? 4 : 0;
	if (wire == PROTOBUF_C_WIRE_TYPE_VARINT)
		return get_varint(at, end, &number);
	if (wire == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED && !get_varint(at, end, ret_size))
		return false;
	if (*ret_size > (uint64_t)(end - *at))
		return false;
	*at += *ret_size;
	return wire == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED || *ret_size;
}

static bool is_bad(struct fault *fault, const char *before, const char *name, const char *what)
{
	snprintf(fault->path, sizeof(fault->path), "%s%s", before, name);
	fault->what = what;
	return true;
}

static bool has_fault(const ProtobufCMessageDescriptor *type, const uint8_t *at, const uint8_t *end, const char *before,
		      struct fault *fault);

static bool field_has_fault(const ProtobufCFieldDescriptor *field, uint32_t index, unsigned wire, const uint8_t *value, const uint8_t *end,
			    const char *before, struct fault *fault)
{
	bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
	char name[64], inner[PATH_SIZE];

	snprintf(name, sizeof(name), repeated ? "%s[%u]" : "%s", field->name, index);
	if (wire != wire_type(field) && !(repeated && wire == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED))
		return is_bad(fault, before, name, "is of another type than it should be");
	if (field->type != PROTOBUF_C_TYPE_MESSAGE)
		return false;
	if ((size_t)snprintf(inner, sizeof(inner), "%s%s.", before, name) >= sizeof(inner))
		return false;
	return has_fault(field->descriptor, value, end, inner, fault);
}

static bool lacks_fields(const ProtobufCMessageDescriptor *type, const uint32_t *seen, const char *before, struct fault *fault)
{
	for (unsigned i = 0; i < type->n_fields; i++)
		if (type->fields[i].label == PROTOBUF_C_LABEL_REQUIRED && !type->fields[i].default_value && !seen[i])
			return is_bad(fault, before, type->fields[i].name, "is missing");
	return false;
}

static bool has_fault(const ProtobufCMessageDescriptor *type, const uint8_t *at, const uint8_t *end, const char *before,
		      struct fault *fault)
{
	uint32_t seen[FIELDS_MAX] = {0};
	char number[32];

	while (at < end) {
		const ProtobufCFieldDescriptor *field;
		uint64_t tag, size;

		if (!get_varint(&at, end, &tag) || tag < 8 || tag >> 32)
			return is_bad(fault, before, "(the next field)", "begins with what is no field");
		field = protobuf_c_message_descriptor_get_field(type, tag >> 3);
		snprintf(number, sizeof(number), "(field %u)", (uint32_t)tag >> 3);
		if (!skip_value(&at, end, tag & 7, &size))
			return is_bad(fault, before, field ? field->name : number, "is cut off, or its length is wrong");
		if (field && field_has_fault(field, seen[field - type->fields]++, tag & 7, at - size, at, before, fault))
			return true;
	}
	return lacks_fields(type, seen, before, fault);
}

/* ---- one image ---- */

/* How many raw bytes follow an entry. */
static uint64_t after_pipe_data(const ProtobufCMessage *m)
{
	return ((const PipeDataEntry *)m)->bytes;
}

static uint64_t after_packet(const ProtobufCMessage *m)
{
	return ((const SkPacketEntry *)m)->length;
}

static uint64_t after_stream(const ProtobufCMessage *m)
{
	return (uint64_t)((const TcpStreamEntry *)m)->inq_len + ((const TcpStreamEntry *)m)->outq_len;
}

static const struct kind {
	const char *base;
	const ProtobufCMessageDescriptor *type, *first;		/* `first`: of the first entry, if it is another */
	uint64_t (*after)(const ProtobufCMessage *m);
} kinds[] = {
	{ "core", &core_entry__descriptor, NULL, NULL }, { "files", &file_entry__descriptor, NULL, NULL },
	{ "fdinfo", &fdinfo_entry__descriptor, NULL, NULL }, { "mm", &mm_entry__descriptor, NULL, NULL },
	{ "pstree", &pstree_entry__descriptor, NULL, NULL }, { "ids", &task_kobj_ids_entry__descriptor, NULL, NULL },
	{ "fs", &fs_entry__descriptor, NULL, NULL }, { "pipes-data", &pipe_data_entry__descriptor, NULL, after_pipe_data },
	{ "fifo-data", &pipe_data_entry__descriptor, NULL, after_pipe_data },
	{ "sk-queues", &sk_packet_entry__descriptor, NULL, after_packet },
	{ "tcp-stream", &tcp_stream_entry__descriptor, NULL, after_stream },
	{ "pagemap", &pagemap_entry__descriptor, &pagemap_head__descriptor, NULL },
	{ "pagemap-shmem", &pagemap_entry__descriptor, &pagemap_head__descriptor, NULL },
	{ "remap-fpath", &remap_file_path_entry__descriptor, NULL, NULL }, { "filelocks", &file_lock_entry__descriptor, NULL, NULL },
	{ "memfd", &memfd_inode_entry__descriptor, NULL, NULL }, { "ipcns-shm", &ipc_shm_entry__descriptor, NULL, NULL },
	{ "seccomp", &seccomp_entry__descriptor, NULL, NULL }, { "tty-info", &tty_info_entry__descriptor, NULL, NULL },
	{ "tty-data", &tty_data_entry__descriptor, NULL, NULL }, { "inventory", &inventory_entry__descriptor, NULL, NULL },
	{ "phaul-files", &remap_file_path_entry__descriptor, NULL, NULL },
};

static int refuse_entry(const char *name, size_t number, const struct image_reader *r, const ProtobufCMessageDescriptor *type,
			struct phaul_error *err)
{
	size_t left = image_left(r);
	struct fault fault;
	uint32_t size;

	if (left < sizeof(size))
		return phaul_fail(err, -EPROTO, "images", "%s.img: behind entry %zu there are %zu bytes, which are no entry: the file is cut off "
				  "or damaged", name, number - 1, left);
	memcpy(&size, r->at, sizeof(size));
	if (size > left - sizeof(size))
		return phaul_fail(err, -EPROTO, "images", "%s.img: entry %zu says that it has %u bytes, and %zu are there: the file is cut off or "
				  "damaged", name, number, size, left - sizeof(size));
	if (has_fault(type, r->at + sizeof(size), r->at + sizeof(size) + size, "", &fault))
		return phaul_fail(err, -EPROTO, "images", "%s.img: entry %zu: %s %s", name, number, fault.path, fault.what);
	return phaul_fail(err, -EPROTO, "images", "%s.img: entry %zu is no %s", name, number, type->name);
}

static int check_entries(const char *name, const struct kind *kind, struct image_reader *r, struct phaul_error *err)
{
	ProtobufCMessage *m;
	const void *bytes;
	int code = 0;

	for (size_t number = 1; !code && image_left(r); number++) {
		const ProtobufCMessageDescriptor *type = number == 1 && kind->first ? kind->first : kind->type;
		uint64_t after;

		if (image_next(r, type, &m) != 1)
			return refuse_entry(name, number, r, type, err);
		after = kind->after ? kind->after(m) : 0;
		protobuf_c_message_free_unpacked(m, NULL);
		if (after > image_left(r) || image_next_raw(r, after, &bytes))
			code = phaul_fail(err, -EPROTO, "images", "%s.img: entry %zu tells of %llu bytes behind it, and %zu are there: the file "
					  "is cut off or damaged", name, number, (unsigned long long)after, image_left(r));
	}
	return code;
}

int image_set_check(const struct image_set *set, struct phaul_error *err)
{
	struct image_reader r;
	const char *base;
	int code = 0, found;

	for (size_t i = 0; !code && (found = image_read_nth(set, i, &base, &r)) != -ENOENT; i++) {
		if (found)
			return phaul_fail(err, -EPROTO, "images", "%s.img does not begin as such an image does: it is damaged, another file, or of "
					  "a criu before 2.0", image_set_name(set, i));
		for (size_t n = 0; !code && n < sizeof(kinds) / sizeof(*kinds); n++)
			if (!strcmp(kinds[n].base, base))
				code = check_entries(image_set_name(set, i), &kinds[n], &r, err);
	}
	return code;
}
