#include "fill.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#define SMALL_SIZE (256u << 10)	/* below, it isn't worth a call */

void fill_open(struct fill *f, struct husk *husk)
{
	struct uffdio_api api = { .api = UFFD_API };
	int64_t there = remote_call(&husk->leader, SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	int pidfd = there < 0 ? -1 : syscall(SYS_pidfd_open, husk->pid, 0);

	f->uffd = pidfd < 0 ? -1 : syscall(SYS_pidfd_getfd, pidfd, (int)there, 0);
	if (pidfd >= 0)
		close(pidfd);
	if (there >= 0)
		(void)remote_call(&husk->leader, SYS_close, there);
	if (f->uffd >= 0 && ioctl(f->uffd, UFFDIO_API, &api) < 0)
		fill_close(f);
}

/* A huge page is zeroed and filled faster than 512 small ones are copied. */
static bool gets_huge_pages(const struct vma *vma)
{
	char text[64] = "";
	int fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (read(fd, text, sizeof(text) - 1) < 0)
			*text = 0;
		close(fd);
	}
	if (vma->flags & VMA_NOHUGEPAGE)
		return false;
	return strstr(text, "[always]") || (strstr(text, "[madvise]") && (vma->flags & VMA_HUGEPAGE));
}

void fill_register(struct fill *f, const struct vma *vma)
{
	struct uffdio_register reg = {
		.range = { vma->start, vma->end - vma->start }, .mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (f->uffd >= 0 && vma->kind == VMA_ANON && !(vma->flags & VMA_HUGETLB) && vma->end - vma->start >= SMALL_SIZE &&
	    !gets_huge_pages(vma))
		(void)ioctl(f->uffd, UFFDIO_REGISTER, &reg);
}

size_t fill_copy(struct fill *f, uint64_t at, const uint8_t *data, size_t size, int *ret_err)
{
	size_t done = 0;

	*ret_err = f->uffd < 0 ? -ENOENT : 0;
	while (done < size && !*ret_err) {
		struct uffdio_copy copy = {
			.dst = at + done, .src = (uintptr_t)data + done, .len = size - done,
			.mode = UFFDIO_COPY_MODE_DONTWAKE,
		};
		int failed = ioctl(f->uffd, UFFDIO_COPY, &copy) < 0 ? -errno : 0;

		done += copy.copy > 0 ? copy.copy : 0;
		/* -EAGAIN: some was copied, or the mappings were changing. */
		if (failed != -EAGAIN)
			*ret_err = failed;
	}
	return done;
}

void fill_close(struct fill *f)
{
	if (f->uffd >= 0)
		close(f->uffd);
	f->uffd = -1;
}
