# -*- coding: utf-8 -*-
# Copyright (c) 2026 the phaul authors
# MIT License (see LICENSE)
"""Which processes there are on a host, and what phaul says of them."""
from __future__ import absolute_import, division, print_function

import json
import os
import re

__metaclass__ = type

REACH = dict(
    identity=dict(type="path"),
    ssh_config=dict(type="path"),
    accept_new_host_key=dict(type="bool", default=False),
    tcp=dict(type="str", choices=["established", "close", "refuse"]),
    move_ip=dict(type="list", elements="str", default=[]),
    cpu_check=dict(type="str", choices=["used", "strict", "off"]),
    files=dict(type="str", choices=["check", "copy", "rsync"]),
    overwrite=dict(type="bool", default=False),
    pid_namespace=dict(type="str", choices=["same", "new"]),
    stdio=dict(type="str"),
    as_service=dict(type="str"),
    executable=dict(type="path", default="phaul"),
)

SUBJECT = dict(
    pid=dict(type="int"),
    service=dict(type="str"),
    match=dict(type="str"),
)

# Lines of "PID PARENT PID COMMAND LINE", the second pid as the process sees it; the first line has this shell's pid alone. Kernel
# threads have no command line.
LIST = r"""echo $$
for p in /proc/[0-9]*; do
  c=$(tr '\0\n' '  ' <$p/cmdline) && [ -n "$c" ] || continue
  parent= inside=
  while read -r k v; do case $k in PPid:) parent=$v ;; NSpid:) inside=${v##*[!0-9]} ;; esac; done <$p/status && printf '%s %s %s %s\n' "${p#/proc/}" "$parent" "$inside" "$c"
done 2>/dev/null
true"""


class Process(object):
    def __init__(self, pid, parent, inside, command):
        self.pid, self.parent, self.inside, self.command = pid, parent, inside, command


class Phaul(object):
    def __init__(self, module):
        self.module = module

    def options(self, names=REACH):
        """Those of these parameters that are given, as on the command line."""
        words = []
        for name in sorted(set(names) - set(["executable"])):
            value, option = self.module.params[name], "--" + name.replace("_", "-")
            if isinstance(value, bool):
                words += [option] if value else []
            elif isinstance(value, list):
                words += [word for one in value for word in (option, one)]
            elif value is not None:
                words += [option, str(value)]
        return words

    def events(self, words):
        """Runs phaul with --json: the exit code and the events."""
        rc, out, err = self.module.run_command([self.module.params["executable"]] + words + ["--json"])
        try:
            return rc, [json.loads(line) for line in out.splitlines() if line.strip()]
        except ValueError:
            self.module.fail_json(msg="%s did not answer with JSON: %s %s" % (self.module.params["executable"], out[-500:], err[-500:]), rc=rc)

    def run(self, words):
        """Runs phaul with --json: the exit code and the last event."""
        rc, events = self.events(words)
        return rc, events[-1] if events else {}

    def moved_away(self, pid):
        """Whether the last that this host knows of this pid is that it was moved to another one."""
        known = [event for event in self.events(["status", "--all"])[1] if event.get("pid") == pid]
        latest = max(known, key=lambda event: event["began"]) if known else {}
        return latest.get("side") == "source" and latest.get("journal") == "gone"

    def check(self, pid, to=None):
        """What phaul check says: the preflight event. None if the process has ended meanwhile."""
        rc, event = self.run(["check", str(pid)] + ([to] if to else []) + self.options())
        if event.get("event") == "preflight":
            return event
        error = event.get("error", {})
        if error.get("code") in ("ERR_NO_PROCESS", "ERR_PROCESS_EXITED"):
            return None
        self.module.fail_json(msg="phaul check %d failed: %s" % (pid, error.get("message", "exit code %d" % rc)), report=event, rc=rc)

    def processes(self, to=None):
        """Those of this host, or of another one, without those that this look needs itself."""
        words = ["sh", "-c", LIST] if to is None else self.ssh(to) + [LIST]
        rc, out, err = self.module.run_command(words)
        if rc != 0:
            self.module.fail_json(msg="The processes of %s can't be listed: %s" % (to or "this host", err.strip() or out.strip()), rc=rc)
        lines = out.splitlines()
        found = {}
        for line in lines[1:]:
            pid, parent, inside, command = line.split(" ", 3)
            found[int(pid)] = Process(int(pid), int(parent), int(inside), command.strip())
        own = int(lines[0])
        while own in found:
            own = found.pop(own).parent
        return found

    def ssh(self, to):
        """The way that phaul goes, for a look at the other host."""
        given = self.module.params
        match = re.match(r"^(?:(?P<user>[^@]+)@)?(?P<host>\[[^\]]+\]|[^:]+)(?::(?P<port>\d+))?$", to)
        if match is None:
            self.module.fail_json(msg='"%s" is no host: write [USER@]HOST[:PORT].' % to)
        words = ["ssh", "-o", "BatchMode=yes"]
        for option, value in (("-i", given["identity"]), ("-F", given["ssh_config"]), ("-l", match.group("user")), ("-p", match.group("port"))):
            if value is not None:
                words += [option, value]
        if given["accept_new_host_key"]:
            words += ["-o", "StrictHostKeyChecking=accept-new"]
        return words + [match.group("host").strip("[]")]


def is_ansible(process):
    """The controller may be this host: its command line has the pattern in it, and matches."""
    return any(os.path.basename(word).startswith("ansible") for word in process.command.split()[:2])


def roots(processes, pattern):
    """Those that match, and that descend from none that does."""
    matching = set(process.pid for process in processes.values() if re.search(pattern, process.command) and not is_ansible(process))

    def stands_alone(process):
        parent = process.parent
        while parent in processes:
            if parent in matching:
                return False
            parent = processes[parent].parent
        return True

    return sorted((processes[pid] for pid in matching if stands_alone(processes[pid])), key=lambda process: process.pid)


def cpu_seconds(pids):
    """CPU time that these processes have used; one that has ended counts as nothing."""
    ticks = 0
    for pid in pids:
        try:
            with open("/proc/%d/stat" % pid) as stat:
                fields = stat.read().rpartition(")")[2].split()
        except (IOError, OSError):
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / float(os.sysconf("SC_CLK_TCK"))


def memory_bytes(pids):
    """
    What these processes hold besides pages of files: those come again where they run, as they are used, so that a process that
    was just moved seems to be smaller. What they share is counted once.
    """
    held = 0
    for pid in pids:
        try:
            with open("/proc/%d/smaps_rollup" % pid) as sums:
                held += sum(int(line.split()[1]) for line in sums if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) << 10
        except (IOError, OSError):
            continue
    return held


def tree(processes, pid):
    """It and all that descend from it."""
    members = [pid]
    for member in members:
        members += [process.pid for process in processes.values() if process.parent == member]
    return members
