# -*- coding: utf-8 -*-
# Copyright (c) 2026 the phaul authors
# MIT License (see LICENSE)
"""Where processes go: onto hosts by what these have free of memory and CPU."""
from __future__ import absolute_import, division, print_function

from ansible.errors import AnsibleFilterError

__metaclass__ = type


# Loads that differ by less are the same: they were not measured at the same moment.
EQUAL = 0.15

# Of a CPU: what a process that only waits may seem to use within a second.
IDLE = 0.05


class Host(object):
    """What is in use of a host, with what is placed there; shares are of all that it has."""

    def __init__(self, name, memory_total, memory_used, cpus_total, cpus_used):
        self.name = name
        self.memory_total, self.memory_used = float(memory_total), float(memory_used)
        self.cpus_total, self.cpus_used = float(cpus_total), float(cpus_used)
        self.given = 0

    def load(self, process=None, sign=1):
        """The larger of both shares; with a process, what it would be with it, or without it."""
        memory = self.memory_used + (sign * process["memory_bytes"] if process else 0)
        cpus = self.cpus_used + (sign * process["cpus"] if process else 0)
        return max(memory / self.memory_total, cpus / self.cpus_total)

    def has_room(self, process, keep_free):
        return self.memory_used + process["memory_bytes"] <= (1 - keep_free) * self.memory_total

    def change(self, process, sign):
        self.memory_used += sign * process["memory_bytes"]
        self.cpus_used += sign * process["cpus"]
        self.given += sign * process["memory_bytes"]


def from_facts(name, facts):
    try:
        memory = facts["ansible_memory_mb"]["real"]["total"], facts["ansible_memory_mb"]["nocache"]["used"]
        return Host(name, memory[0] << 20, memory[1] << 20, facts["ansible_processor_vcpus"], facts["ansible_loadavg"]["1m"])
    except KeyError as missing:
        raise AnsibleFilterError("Host %s has no fact %s: gather facts of it first." % (name, missing))


def choose(hosts, process):
    """The one that is used least with it; of those that are hardly used more, the one that was given least."""
    loads = dict((host.name, host.load(process)) for host in hosts)
    least = min(loads.values())
    return min((host for host in hosts if loads[host.name] <= least * (1 + EQUAL) + EQUAL), key=lambda host: (host.given, loads[host.name], host.name))


def spread(processes, facts, targets, keep_free=0.1):
    """Moves for all of them: [{pid, name, memory_bytes, to}], to is None where no target has room."""
    hosts = [from_facts(name, facts[name]) for name in targets]
    moves = []
    for process in sorted(processes, key=lambda one: (-one["memory_bytes"], one["pid"])):
        fitting = [host for host in hosts if host.has_room(process, keep_free)]
        best = choose(fitting, process) if fitting else None
        if best:
            best.change(process, 1)
        moves.append(dict(process, to=best.name if best else None))
    return moves


def weighed(process):
    return process if process["cpus"] >= IDLE else dict(process, cpus=0.0)


def balance(processes, facts, threshold=0.1, minimum=0.02, keep_free=0.1):
    """
    Moves after which no host has a share of these processes that is much larger than another's: {host: [process]} to
    [{pid, name, memory_bytes, from, to}]. Only what may move is weighed, and each process moves once at most.
    """
    hosts = {}
    processes = dict((name, [weighed(process) for process in own]) for name, own in processes.items())
    for name, own in processes.items():
        whole = from_facts(name, facts[name])
        hosts[name] = Host(name, whole.memory_total, sum(one["memory_bytes"] for one in own), whole.cpus_total, sum(one["cpus"] for one in own))
    room = dict((name, from_facts(name, facts[name])) for name in hosts)
    staying = dict((name, [one for one in own if one["movable"]]) for name, own in processes.items())
    moves = []
    while len(hosts) > 1:
        high = max(hosts.values(), key=lambda host: (host.load(), host.name))
        low = min(hosts.values(), key=lambda host: (host.load(), host.name))
        if high.load() - low.load() <= max(threshold * high.load(), minimum):
            break
        fitting = [one for one in staying[high.name] if low.load(one) < high.load() and room[low.name].has_room(one, keep_free)]
        if not fitting:
            break
        process = min(fitting, key=lambda one: (max(low.load(one), high.load(one, -1)), one["pid"]))
        for host, sign in ((high, -1), (low, 1), (room[high.name], -1), (room[low.name], 1)):
            host.change(process, sign)
        staying[high.name].remove(process)
        moves.append(dict(process, to=low.name, **{"from": high.name}))
    return moves


class FilterModule(object):
    def filters(self):
        return {"spread": spread, "balance": balance}
