/* packet_socket.c - sockets that see whole packets of a device: those of DHCP, of tcpdump, of intrusion detection. What waits to be
 * read is lost, as on a busy device.
 */
#include "packet_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../layout.h"
#include "descriptors.h"
#include "socket_options.h"

#define SOCK_PACKET_OLD 10	/* SOCK_PACKET, of Linux 2.0 */
#define MAPPINGS_MAX 8
#define FANOUT_TYPE(fanout) ((fanout) >> 16 & 0xff)

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

/* Options of int type that the images have no field for. */
static const int others[] = { PACKET_QDISC_BYPASS, PACKET_TX_HAS_OFF, PACKET_IGNORE_OUTGOING };
#define OTHERS (sizeof(others) / sizeof(*others))

static bool is(const struct descriptor *d)
{
	return S_ISSOCK(d->st.st_mode) && d->family == AF_PACKET;
}

/* ---- rings, mapped ---- */

/* Where this process has the socket's rings; the number, -errno. */
static int mappings_of(pid_t pid, ino_t ino, struct vma ret[MAPPINGS_MAX])
{
	struct memory_map map;
	int count = 0, err = memory_map_read(pid, false, &map, NULL);

	for (size_t i = 0; i < map.count && !err; i++) {
		if (map.at[i].kind != VMA_SOCKET || map.at[i].inode != ino)
			continue;
		if (count == MAPPINGS_MAX)
			err = -E2BIG;
		else
			ret[count++] = map.at[i];
	}
	memory_map_free(&map);
	return err ? err : count;
}

/* The kernel's place in it is the first one then; otherwise nothing tells it, and nothing sets it. */
static bool is_unused(pid_t pid, const struct vma *vma)
{
	uint64_t page[512];
	struct iovec local = { page, sizeof(page) }, remote = { NULL, sizeof(page) };

	for (uint64_t at = vma->start; at < vma->end; at += sizeof(page)) {
		remote.iov_base = (void *)at;
		if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != sizeof(page))
			return false;
		for (size_t i = 0; i < sizeof(page) / sizeof(*page); i++)
			if (page[i])
				return false;
	}
	return true;
}

static void check_rings(struct check *c, const struct descriptor *d)
{
	const struct descriptor_table *table;
	struct vma vmas[MAPPINGS_MAX];

	for (size_t n = 0; c->descriptors && (table = descriptors_table(c->descriptors, n)); n++) {
		int count = mappings_of(table->pid, d->st.st_ino, vmas);

		if (count && table->pid != c->descriptors->pid)
			refuse(c, d, "FD_PACKET", "is a packet socket whose ring pid %d has mapped, too: such sharing is not moved yet; stop the "
			       "program", table->pid);
		for (int i = 0; i < count; i++)
			if (!is_unused(table->pid, &vmas[i])) {
				refuse(c, d, "FD_PACKET", "is a packet socket that has received into its ring in memory (PACKET_RX_RING) or sent from "
				       "one: the kernel's place in the ring can't be moved; stop the program, and start it on the other host");
				break;
			}
	}
}

/* ---- check ---- */

static void check(struct check *c, const struct descriptor *d)
{
	struct packet_facts f;
	socklen_t size = 0;
	char device[IF_NAMESIZE] = "";
	int err = packet_diag(d->st.st_ino, &f);

	if (err) {
		refuse(c, d, "FD_PACKET", "is a packet socket that the kernel tells nothing of (%s; has it CONFIG_PACKET_DIAG?): such can't be "
		       "moved; stop the program", strerror(-err));
		return;
	}
	if (getsockopt(d->own, SOL_SOCKET, SO_ATTACH_FILTER, NULL, &size) < 0)
		refuse(c, d, "FD_PACKET", "is a packet socket with a filter of eBPF, which can't be read from the kernel: start the program "
		       "without it");
	if (f.fanout != PACKET_NO_FANOUT && FANOUT_TYPE(f.fanout) >= PACKET_FANOUT_CBPF)
		refuse(c, d, "FD_PACKET", "is a packet socket of a group whose packets a BPF program deals out, which can't be read from the kernel: "
		       "let the program use another kind of PACKET_FANOUT");
	if (f.info.pdi_index && if_indextoname(f.info.pdi_index, device))
		remark(c, d, "PACKET", "is a packet socket on the device %s: it needs one of that name where it goes on, and has the packets of that "
		       "one; what waits in it is lost", device);
	else
		remark(c, d, "PACKET", "is a packet socket: where it goes on it has the packets of that host; what waits in it is lost");
	if (f.has_rx || f.has_tx)
		check_rings(c, d);
	packet_facts_free(&f);
}

/* ---- dump ---- */

/* All that one image consists of. */
struct store {
	PacketSockEntry entry;
	struct socket_options options;
	PacketRing rx, tx;
	char device[IF_NAMESIZE];
	PacketMclist *members, **member_list;
	char (*names)[IF_NAMESIZE];
	SkOptionEntry more[OTHERS], *more_list[OTHERS];
	int values[OTHERS];
	PhaulRingMapping mappings[MAPPINGS_MAX], *mapping_list[MAPPINGS_MAX];
};

static PacketRing *put_ring(PacketRing *to, const struct packet_diag_ring *from)
{
	packet_ring__init(to);
	to->block_size = from->pdr_block_size;
	to->block_nr = from->pdr_block_nr;
	to->frame_size = from->pdr_frame_size;
	to->frame_nr = from->pdr_frame_nr;
	to->retire_tmo = from->pdr_retire_tmo;
	to->sizeof_priv = from->pdr_sizeof_priv;
	to->features = from->pdr_features;
	return to;
}

static int put_members(struct dump *dump, struct store *s, const struct packet_facts *f)
{
	s->members = dump_alloc(dump, (f->member_count + 1) * sizeof(*s->members));
	s->member_list = dump_alloc(dump, (f->member_count + 1) * sizeof(*s->member_list));
	s->names = dump_alloc(dump, (f->member_count + 1) * sizeof(*s->names));
	if (!s->members || !s->member_list || !s->names)
		return -ENOMEM;
	for (size_t i = 0; i < f->member_count; i++) {
		const struct packet_diag_mclist *from = &f->members[i];
		PacketMclist *to = s->member_list[i] = &s->members[i];
		bool addressed = from->pdmc_type == PACKET_MR_MULTICAST || from->pdmc_type == PACKET_MR_UNICAST;

		packet_mclist__init(to);
		to->index = from->pdmc_index;
		to->type = from->pdmc_type;
		to->addr.len = addressed ? from->pdmc_alen : 0;
		to->addr.data = (uint8_t *)from->pdmc_addr;
		to->phaul_device = if_indextoname(from->pdmc_index, s->names[i]);
	}
	s->entry.mclist = s->member_list;
	s->entry.n_mclist = f->member_count;
	return 0;
}

static void put_others(struct store *s, int own)
{
	for (size_t i = 0; i < OTHERS; i++) {
		size_t n = s->entry.n_phaul_options;
		int value = socket_option(own, SOL_PACKET, others[i]);

		if (value <= 0)
			continue;
		s->values[n] = value;
		s->more_list[n] = &s->more[n];
		sk_option_entry__init(&s->more[n]);
		s->more[n].level = SOL_PACKET;
		s->more[n].name = others[i];
		s->more[n].value = (ProtobufCBinaryData){ sizeof(int), (uint8_t *)&s->values[n] };
		s->entry.phaul_options = s->more_list;
		s->entry.n_phaul_options++;
	}
}

static int put_mappings(struct dump *dump, struct store *s, ino_t ino)
{
	struct vma vmas[MAPPINGS_MAX];
	int count = mappings_of(dump->pid, ino, vmas);

	for (int i = 0; i < count; i++) {
		PhaulRingMapping *m = s->mapping_list[i] = &s->mappings[i];

		phaul_ring_mapping__init(m);
		m->start = vmas[i].start;
		m->end = vmas[i].end;
		m->prot = vmas[i].prot;
		m->shared = vmas[i].shared;
	}
	s->entry.phaul_mappings = s->mapping_list;
	s->entry.n_phaul_mappings = count < 0 ? 0 : count;
	return count < 0 ? count : 0;
}

static void put_facts(struct store *s, const struct packet_facts *f)
{
	PacketSockEntry *e = &s->entry;

	e->type = f->type;
	e->protocol = htons(f->protocol);
	e->ifindex = f->info.pdi_index;
	e->phaul_device = f->info.pdi_index ? if_indextoname(f->info.pdi_index, s->device) : NULL;
	e->version = f->info.pdi_version;
	e->reserve = f->info.pdi_reserve;
	e->copy_thresh = f->info.pdi_copy_thresh;
	e->timestamp = f->info.pdi_tstamp;
	e->aux_data = f->info.pdi_flags & PDI_AUXDATA;
	e->orig_dev = f->info.pdi_flags & PDI_ORIGDEV;
	e->vnet_hdr = f->info.pdi_flags & PDI_VNETHDR;
	e->loss = f->info.pdi_flags & PDI_LOSS;
	e->has_fanout = f->fanout != PACKET_NO_FANOUT;
	e->fanout = f->fanout;
	e->rx_ring = f->has_rx ? put_ring(&s->rx, &f->rx) : NULL;
	e->tx_ring = f->has_tx ? put_ring(&s->tx, &f->tx) : NULL;
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	struct store *s = dump_alloc(dump, sizeof(*s));
	InetSkEntry options_of = INET_SK_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	struct packet_facts f;
	int err = s ? packet_diag(d->st.st_ino, &f) : -ENOMEM;

	if (err)
		return err;
	packet_sock_entry__init(&s->entry);
	s->entry.id = d->id;
	s->entry.flags = d->flags;
	s->entry.fown = file_owner(d);
	put_facts(s, &f);
	put_others(s, d->own);
	options_of.family = AF_PACKET;
	options_of.type = f.type;
	err = socket_options_dump(d->own, &s->options, &dump->socket_defaults, &options_of) ?: put_members(dump, s, &f);
	if (!err && (f.has_rx || f.has_tx))
		err = put_mappings(dump, s, d->st.st_ino);
	s->entry.opts = options_of.opts;
	file.psk = &s->entry;
	err = err ?: file_put(dump, d, &file);
	packet_facts_free(&f);
	return err;
}

/* ---- build ---- */

/* By its name, as its number is another one elsewhere. */
static int device(struct build *b, const PacketSockEntry *e, const char *name, uint32_t index)
{
	unsigned int found = name ? if_nametoindex(name) : index;

	return found || !index ? (int)found : phaul_fail(b->err, -ENODEV, "descriptors", "there is no network device %s here, which the packet socket "
							  "fd %d is for", name, file_number(b, e->id));
}

static int set(struct build *b, int fd, int name, const void *value, socklen_t size)
{
	return setsockopt(fd, SOL_PACKET, name, value, size) < 0 ?
	       phaul_fail(b->err, -errno, "descriptors", "setting option %d of a packet socket", name) : 0;
}

static int set_number(struct build *b, int fd, int name, int value)
{
	return value ? set(b, fd, name, &value, sizeof(value)) : 0;
}

static int set_members(struct build *b, int fd, const PacketSockEntry *e)
{
	for (size_t i = 0; i < e->n_mclist; i++) {
		const PacketMclist *m = e->mclist[i];
		struct { int index; uint16_t type, length; uint8_t address[32]; } request = { .type = m->type, .length = m->addr.len };
		int index = device(b, e, m->phaul_device, m->index), err;

		if (index < 0 || m->addr.len > sizeof(request.address))
			return index < 0 ? index : -EPROTO;
		request.index = index;
		if (m->addr.len)
			memcpy(request.address, m->addr.data, m->addr.len);
		err = set(b, fd, PACKET_ADD_MEMBERSHIP, &request, sizeof(request));
		if (err)
			return err;
	}
	return 0;
}

static int set_ring(struct build *b, int fd, int name, const PacketRing *r)
{
	struct tpacket_req3 request;

	if (!r)
		return 0;
	request = (struct tpacket_req3){
		.tp_block_size = r->block_size, .tp_block_nr = r->block_nr, .tp_frame_size = r->frame_size, .tp_frame_nr = r->frame_nr,
		.tp_retire_blk_tov = r->retire_tmo, .tp_sizeof_priv = r->sizeof_priv, .tp_feature_req_word = r->features,
	};
	return set(b, fd, name, &request, sizeof(request));
}

static int bind_to(struct build *b, int fd, const PacketSockEntry *e)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = e->protocol };
	struct sockaddr old = { .sa_family = AF_PACKET };
	int index = device(b, e, e->phaul_device, e->ifindex);
	char name[IF_NAMESIZE];

	if (index < 0)
		return index;
	at.sll_ifindex = index;
	if (e->type != SOCK_PACKET_OLD)
		return bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 ? -errno : 0;
	/* It has the protocol from its birth. */
	if (!index || !if_indextoname(index, name))
		return 0;
	snprintf(old.sa_data, sizeof(old.sa_data), "%s", name);
	return bind(fd, &old, sizeof(old)) < 0 ? -errno : 0;
}

/* Bound last: what comes before then is for nobody. */
static int set_all(struct build *b, int fd, const PacketSockEntry *e)
{
	InetSkEntry options_of = INET_SK_ENTRY__INIT;
	int err;

	options_of.family = AF_PACKET;
	options_of.type = e->type;
	options_of.opts = e->opts;
	options_of.phaul_options = e->phaul_options;
	options_of.n_phaul_options = e->n_phaul_options;
	err = socket_options_build(fd, &options_of, b->err);
	if (!err && e->type != SOCK_PACKET_OLD)
		err = set_number(b, fd, PACKET_VERSION, e->version) ?: set_number(b, fd, PACKET_RESERVE, e->reserve) ?:
		      set_number(b, fd, PACKET_TIMESTAMP, e->timestamp) ?: set_number(b, fd, PACKET_COPY_THRESH, e->copy_thresh) ?:
		      set_number(b, fd, PACKET_AUXDATA, e->aux_data) ?: set_number(b, fd, PACKET_ORIGDEV, e->orig_dev) ?:
		      set_number(b, fd, PACKET_VNET_HDR, e->vnet_hdr) ?: set_number(b, fd, PACKET_LOSS, e->loss) ?:
		      set_members(b, fd, e) ?: set_ring(b, fd, PACKET_RX_RING, e->rx_ring) ?: set_ring(b, fd, PACKET_TX_RING, e->tx_ring);
	err = err ?: bind_to(b, fd, e);
	return err ?: e->has_fanout && e->fanout != PACKET_NO_FANOUT ? set(b, fd, PACKET_FANOUT, &e->fanout, sizeof(e->fanout)) : 0;
}

static int build(struct build *b, const FileEntry *file)
{
	const PacketSockEntry *e = file->psk;
	int fd = socket(AF_PACKET, e->type | SOCK_CLOEXEC | SOCK_NONBLOCK, e->type == SOCK_PACKET_OLD ? e->protocol : 0), err;

	if (fd < 0)
		return -errno;
	err = set_all(b, fd, e);
	if (!err)
		return file_set_flags(b, fd, e->flags);
	close(fd);
	return err;
}

static int map_ring(struct call_stream *s, int fd, uint64_t start, uint64_t end, int prot, bool shared)
{
	int err = call_stream_room(s, 0);

	batch_call(&s->batch, "map the ring of a packet socket", SYS_mmap, start, end - start, prot, MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE),
		   fd, 0);
	return err ?: s->batch.error;
}

/* Criu tells it among the mappings. */
static int map_by_mm(struct build *b, const PacketSockEntry *e, int fd, struct call_stream *s)
{
	struct image_reader r;
	ProtobufCMessage *msg = NULL;
	const MmEntry *mm;
	int err = image_read(b->images, "mm", b->pid, &r);

	if (err || image_next(&r, &mm_entry__descriptor, &msg) != 1)
		return err ? err : -EPROTO;
	mm = (MmEntry *)msg;
	for (size_t i = 0; i < mm->n_vmas && !err; i++) {
		const VmaEntry *vma = mm->vmas[i];

		if (vma->status & VMA_STATUS_SOCKET && vma->shmid == e->id)
			err = map_ring(s, fd, vma->start, vma->end, vma->prot, vma->flags & MAP_SHARED);
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return err;
}

static int finish(struct build *b, const FileEntry *file, int fd, struct call_stream *s)
{
	const PacketSockEntry *e = file->psk;
	int err = 0;

	if (!e->rx_ring && !e->tx_ring)
		return 0;
	for (size_t i = 0; i < e->n_phaul_mappings && !err; i++) {
		const PhaulRingMapping *m = e->phaul_mappings[i];

		err = map_ring(s, fd, m->start, m->end, m->prot, m->shared);
	}
	return err ?: e->n_phaul_mappings ? 0 : map_by_mm(b, e, fd, s);
}

const struct descriptor_kind packet_socket = {
	.name = "a packet socket",
	.asks = true,
	.is = is,
	.check = check,
	.dump = dump,
	.build = build,
	.finish = finish,
	.type = FD_TYPES__PACKETSK,
};
