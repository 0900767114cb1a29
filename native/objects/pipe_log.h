#ifndef PHAUL_PIPE_LOG_H
#define PHAUL_PIPE_LOG_H

#include <stddef.h>
#include <sys/types.h>

#define PIPE_LOG_DIRECTORY "/var/log/phaul"

void pipe_log_path(char *ret, size_t size, pid_t pid, int number);
/* Starts a process that appends what comes through the pipe to the file, until its end. */
int pipe_log_start(int pipe, const char *path);

#endif
