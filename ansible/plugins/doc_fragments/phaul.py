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
