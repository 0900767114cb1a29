/* keys.c - REPORT [process | thread | session]: has a key in a keyring of its own process, of a thread, or of its session; without a
 * word an empty keyring of its session, as those who log in have. After a move that of the session is empty.
 */
#include <linux/keyctl.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "victim.h"

static int32_t ring;
static volatile int added;

static void *add(void *name)
{
	if (syscall(SYS_add_key, "user", name, "secret", 6, ring) < 0)
		victim_fail("add_key: %m");
	added = 1;
	while (ring != KEY_SPEC_SESSION_KEYRING)
		usleep(1000);
	return NULL;
}

int main(int argc, char **argv)
{
	const char *where = argc > 2 ? argv[2] : "";
	uint32_t serial;
	pthread_t thread;

	victim_begin(argc, argv);
	ring = !strcmp(where, "process") ? KEY_SPEC_PROCESS_KEYRING : !strcmp(where, "thread") ? KEY_SPEC_THREAD_KEYRING :
	       KEY_SPEC_SESSION_KEYRING;
	victim_check(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) > 0);
	if (*where)
		victim_check(pthread_create(&thread, NULL, add, "victim") == 0);
	while (*where && !added)
		usleep(1000);
	victim_ready();
	while (victim_tick())
		usleep(1000);

	victim_check(syscall(SYS_keyctl, KEYCTL_READ, KEY_SPEC_SESSION_KEYRING, &serial, sizeof(serial)) == 0);
	victim_check(syscall(SYS_add_key, "user", "another", "secret", 6, KEY_SPEC_SESSION_KEYRING) > 0);
	return victim_ok();
}
