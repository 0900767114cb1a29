/* unmovable.c - names for the descriptors that no kind knows, and why each can't move. */
#include "descriptors.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

static const struct {
	const char *link;	/* how the link begins */
	const char *text;
} by_link[] = {
	{ "anon_inode:[io_uring]",
	  "is an io_uring instance: its rings and requests live in the kernel, "
	  "which can't give them out; start the program where it gets none, most then use epoll, Node 22 and later too: systemd: "
	  "SystemCallFilter=~io_uring_setup with SystemCallErrorNumber=EPERM, or sysctl kernel.io_uring_disabled=2" },
	{ "anon_inode:[perf_event]",
	  "is a perf event: it counts on this machine's processors; stop the "
	  "profiler first" },
	{ "anon_inode:[userfaultfd]",
	  "is a userfaultfd: the program serves its own page faults, and we "
	  "track its pages by the same means; let it close it first" },
	{ "anon_inode:bpf-map",
	  "is a BPF map: its content belongs to this kernel and is not moved; let the "
	  "program close it first" },
	{ "anon_inode:bpf",
	  "is a BPF object: it is loaded into this kernel and can't be moved; let the "
	  "program close it first" },
	{ "anon_inode:[landlock-ruleset]",
	  "is a Landlock rule set: these are not moved; let the program "
	  "close it after use" },
	{ "anon_inode:seccomp",
	  "is a seccomp notifier: it answers the system calls of other processes, "
	  "which stay here; stop the program" },
	{ "anon_inode:kvm",
	  "belongs to a virtual machine (KVM): processor state of a guest is not moved; "
	  "migrate the machine by its own monitor" },
	{ "anon_inode:dmabuf",
	  "is a buffer shared with a device, which stays here; stop the program" },
	{ "/dmabuf:", "is a buffer shared with a device, which stays here; stop the program" },
	{ "/SYSV", "is System V shared memory, which is not moved yet; stop the program" },
};

static const char *socket_name(int family, int protocol)
{
	switch (family) {
	case AF_VSOCK:
		return "a vsock socket";
	case AF_ALG:
		return "a kernel crypto socket";
	case AF_XDP:
		return "an XDP socket";
	case AF_BLUETOOTH:
		return "a bluetooth socket";
	case AF_INET:
	case AF_INET6:
		break;
	default:
		return NULL;
	}
	switch (protocol) {
	case IPPROTO_MPTCP:
		return "a multipath TCP socket";
	case IPPROTO_SCTP:
		return "an SCTP socket";
	default:
		return NULL;
	}
}

static void refuse_socket(struct check *c, const struct descriptor *d)
{
	const char *name = socket_name(d->family, d->protocol);

	if (name)
		refuse(c, d, "FD_SOCKET",
		       "is %s: such sockets are not moved; start the program without it, "
		       "if it can",
		       name);
	else
		refuse(c, d, "FD_SOCKET",
		       "is a socket of family %d, type %d, protocol %d: such sockets are "
		       "not moved; start the program without it, if it can",
		       d->family, d->type, d->protocol);
}

static const char *device_name(dev_t device)
{
	switch (major(device)) {
	case 10:
		return minor(device) == 200   ? "a network tunnel"
		       : minor(device) == 229 ? "a FUSE channel"
		       : minor(device) == 232 ? "the virtual machine device"
					      : NULL;
	case 13:
		return "an input device";
	case 116:
		return "a sound device";
	case 226:
	case 195:
		return "a graphics device";
	default:
		return NULL;
	}
}

static void refuse_character_device(struct check *c, const struct descriptor *d)
{
	unsigned int type = major(d->st.st_rdev);
	const char *name = device_name(d->st.st_rdev);

	refuse(c, d, "FD_DEVICE",
	       "is %s, %s (%u:%u): a device keeps state for the program in this "
	       "host's kernel; let the program close it",
	       name ? name : "a device", d->link, type, minor(d->st.st_rdev));
}

void unmovable_refuse(struct check *c, const struct descriptor *d)
{
	for (size_t i = 0; i < sizeof(by_link) / sizeof(*by_link); i++) {
		if (!strncmp(d->link, by_link[i].link, strlen(by_link[i].link))) {
			refuse(c, d, "FD_KIND", "%s", by_link[i].text);
			return;
		}
	}
	if (S_ISSOCK(d->st.st_mode))
		refuse_socket(c, d);
	else if (S_ISCHR(d->st.st_mode))
		refuse_character_device(c, d);
	else if (S_ISBLK(d->st.st_mode))
		refuse(c, d, "FD_DEVICE",
		       "is a block device, %s: the target's is another one; stop the "
		       "program",
		       d->link);
	else if (!strncmp(d->link, "anon_inode:", 11))
		refuse(c, d, "FD_KIND",
		       "is a kernel object that phaul doesn't know (%s); let the program "
		       "close it",
		       d->link + 11);
	else
		refuse(c, d, "FD_KIND",
		       "is something that phaul doesn't know (%s, mode %o); let the program "
		       "close it",
		       d->link, d->st.st_mode);
}
