/* device.c - /dev/null and its kind: character devices that keep nothing for who opened them. */
#include "descriptors.h"

#include <sys/sysmacros.h>

bool device_is_plain(dev_t device)
{
	if (major(device) != 1)
		return false;
	switch (minor(device)) {
	case 3:	/* null */
	case 5:	/* zero */
	case 7:	/* full */
	case 8:	/* random */
	case 9:	/* urandom */
		return true;
	default:
		return false;
	}
}

static bool is(const struct descriptor *d)
{
	return S_ISCHR(d->st.st_mode) && device_is_plain(d->st.st_rdev);
}

/* The image is that of a file by name, and regular_file.c builds it. */
const struct descriptor_kind device = {
	.name = "a device",
	.is = is,
	.dump = regular_file_dump,
	.type = FD_TYPES__REG,
};
