/* terminal.c - a pseudo terminal: a child leads a session that has it, a group of its own in the foreground, /dev/tty open;
 * the parent has the master. Something waits to be read at both ends.
 */
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>

#include "victim.h"

static int master;
static char name[64];

/* Answers what it is asked, line by line; until it is told to say what it sees. */
static void lead(void)
{
	char line[64];
	int slave, tty;
	ssize_t n;

	if (setsid() < 0)
		_exit(1);
	slave = open(name, O_RDWR);
	tty = open("/dev/tty", O_RDWR);
	close(master);
	if (slave < 0 || tty < 0 || write(slave, "to the master", 13) != 13)
		_exit(2);
	while ((n = read(tty, line, sizeof(line) - 1)) > 0) {
		line[n] = 0;
		if (!strcmp(line, "session\n"))
			dprintf(slave, "%d %d %d;", tcgetsid(slave) == getpid(), tcgetpgrp(tty) == getpgrp(), isatty(tty));
		else
			dprintf(tty, "got %s;", line);
	}
	_exit(3);
}

static void expect(const char *text)
{
	char got[256] = "";
	size_t have = 0;
	ssize_t n = 1;

	while (have < strlen(text) && (n = read(master, got + have, strlen(text) - have)) > 0)
		have += n;
	if (strcmp(got, text))
		victim_fail("read \"%s\" instead of \"%s\" (%s)", got, text, strerror(errno));
}

/* /dev/pts/2 if it is free: a slave whose minor number is that of /dev/ptmx. */
static int open_master(void)
{
	int opened[3], chosen = -1;
	unsigned int index;

	for (int i = 0; i < 3; i++) {
		opened[i] = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
		victim_check(opened[i] >= 0 && !ioctl(opened[i], TIOCGPTN, &index));
		if (i == 2 || index == 2)
			chosen = chosen < 0 ? opened[i] : chosen;
	}
	for (int i = 0; i < 3; i++)
		if (opened[i] != chosen)
			close(opened[i]);
	return chosen;
}

int main(int argc, char **argv)
{
	struct winsize size = { .ws_row = 33, .ws_col = 77 }, now = { 0 };
	struct termios mode;
	pid_t child;

	victim_begin(argc, argv);
	master = open_master();
	victim_check(master >= 0 && !grantpt(master) && !unlockpt(master) && !ptsname_r(master, name, sizeof(name)));
	victim_check(!tcgetattr(master, &mode));
	mode.c_lflag &= ~ECHO;
	mode.c_oflag &= ~OPOST;
	mode.c_cc[VKILL] = 7;
	victim_check(!tcsetattr(master, TCSANOW, &mode) && !ioctl(master, TIOCSWINSZ, &size));
	child = fork();
	if (!child)
		lead();
	/* It reads from the master what the child wrote when it was there; then stops it, so that a line waits. */
	expect("to the ");
	kill(child, SIGSTOP);
	victim_check(waitpid(child, NULL, WUNTRACED) == child);
	victim_check(write(master, "a line\nsession\n", 15) == 15);

	victim_ready();
	while (victim_tick())
		usleep(1000);

	expect("master");
	kill(child, SIGCONT);
	expect("got a line\n;1 1 1;");
	victim_check(!tcgetattr(master, &mode) && mode.c_cc[VKILL] == 7 && !(mode.c_lflag & ECHO) && mode.c_lflag & ICANON);
	victim_check(!ioctl(master, TIOCGWINSZ, &now) && now.ws_row == 33 && now.ws_col == 77);
	/* The end of the terminal is the end of the session. */
	close(master);
	victim_check(waitpid(child, NULL, 0) == child);
	return victim_ok();
}
