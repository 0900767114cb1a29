# -*- coding: utf-8 -*-
# Copyright (c) 2026 the phaul authors
# MIT License (see LICENSE)
from __future__ import absolute_import, division, print_function

__metaclass__ = type


class ModuleDocFragment(object):
    DOCUMENTATION = r"""
options:
  identity:
    description: Private key to log in to the other host with, as for ssh.
    type: path
  ssh_config:
    description: The ssh configuration to read instead of C(~/.ssh/config).
    type: path
  accept_new_host_key:
    description: Trust and remember the key of a host that C(known_hosts) lacks.
    type: bool
    default: false
  tcp:
    description:
      - What becomes of TCP connections. C(established) moves them, C(close) resets them, and C(refuse) makes them an obstacle.
      - Without it, the configuration of the host decides.
    type: str
    choices: [established, close, refuse]
  move_ip:
    description: Addresses that go along, as ADDRESS/PREFIX[@DEVICE[:DEVICE THERE]].
    type: list
    elements: str
    default: []
  cpu_check:
    description:
      - What the other host's CPU must have. C(used) is what programs may have found and used, C(strict) all that this one has, and with
        C(off) nothing is asked for.
    type: str
    choices: [used, strict, "off"]
  files:
    description:
      - Files that the process has mapped or open must be the same on the other host (C(check)), or go along if they are missing there,
        by way of phaul (C(copy)) or C(rsync).
    type: str
    choices: [check, copy, rsync]
  overwrite:
    description: Files that are different on the other host are replaced by those that go along.
    type: bool
    default: false
  pid_namespace:
    description: On the other host, the process has its pids among all others (C(same)), or in a pid namespace of its own (C(new)), whatever is taken.
    type: str
    choices: [same, new]
  stdio:
    description:
      - On the other host, stdin, stdout and stderr are what they are here (C(keep)), C(/dev/null) (C(null)), or stdout and stderr are
        appended to the file of this path. Services that write to the journal of systemd need one of the latter.
    type: str
  as_service:
    description: On the other host, the process is a transient unit of systemd's of this name.
    type: str
  executable:
    description: The program phaul on this host.
    type: path
    default: phaul
requirements:
  - phaul on both hosts
  - python >= 3.6
"""

    SUBJECT = r"""
options:
  pid:
    description: The process, with all that descend from it.
    type: int
  service:
    description: A systemd unit of this host, whose main process is meant.
    type: str
  match:
    description:
      - A regular expression that is searched for in the command lines of processes, whose words are separated by blanks.
      - Of processes that match, those are meant whose ancestors don't. There has to be exactly one.
    type: str
"""
