#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026 the phaul authors
# MIT License (see LICENSE)
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: processes
short_description: Lists processes with what they need and whether they can be moved
description:
  - Finds processes by their command lines, and asks phaul whether each can move.
  - Of processes that match, those are listed whose ancestors don't, since a process moves with all that descend from it.
version_added: 0.1.0
author: The phaul developers (@phaul)
options:
  match:
    description: Regular expressions; a process is listed if any of them is found in its command line, whose words are separated by blanks.
    type: list
    elements: str
    required: true
  to:
    description: "Also ask this host, [USER@]HOST[:PORT], what it lacks for each of them."
    type: str
  sample_seconds:
    description: For how long their use of CPU is measured.
    type: float
    default: 1.0
extends_documentation_fragment:
  - phaul.fleet.phaul
attributes:
  check_mode:
    description: Can run in check mode without changing anything.
    support: full
seealso:
  - module: phaul.fleet.migrate
  - module: phaul.fleet.check
"""

EXAMPLES = r"""
- name: What would move?
  phaul.fleet.processes:
    match: ['redis-server', '^nginx: master']
  register: found

- name: Say so
  ansible.builtin.debug:
    msg: "{{ found.processes | selectattr('movable') | map(attribute='command') }}"
"""

RETURN = r"""
processes:
  description: The processes, by pid.
  returned: success
  type: list
  elements: dict
  contains:
    pid:
      description: The process that the others descend from.
      type: int
    name:
      description: What operators know it by.
      type: str
    command:
      description: Its command line.
      type: str
    memory_bytes:
      description: Memory that all of them need wherever they are, which leaves out what files have of it.
      type: int
    cpus:
      description: CPUs that all of them keep busy.
      type: float
    processes:
      description: How many they are.
      type: int
    movable:
      description: Whether there is no obstacle.
      type: bool
    obstacles:
      description: What keeps it from moving.
      type: list
      elements: dict
    notices:
      description: What will be different on the other host.
      type: list
      elements: dict
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.phaul.fleet.plugins.module_utils.phaul import REACH, Phaul, cpu_seconds, memory_bytes, roots, tree


def main():
    module = AnsibleModule(
        argument_spec=dict(
            REACH,
            match=dict(type="list", elements="str", required=True),
            to=dict(type="str"),
            sample_seconds=dict(type="float", default=1.0),
        ),
        supports_check_mode=True,
    )
    phaul = Phaul(module)
    processes = phaul.processes()
    found = roots(processes, "|".join("(?:%s)" % pattern for pattern in module.params["match"]))
    members = dict((process.pid, tree(processes, process.pid)) for process in found)
    before = dict((pid, cpu_seconds(pids)) for pid, pids in members.items())
    began = time.time()
    time.sleep(module.params["sample_seconds"] if found else 0)
    seconds = max(time.time() - began, 0.001)
    cpus = dict((pid, max(0.0, cpu_seconds(pids) - before[pid]) / seconds) for pid, pids in members.items())
    answer = []
    for process in found:
        report = phaul.check(process.pid, module.params["to"])
        if report is not None:
            answer.append(
                dict(
                    pid=process.pid,
                    name=report["comm"],
                    command=process.command,
                    memory_bytes=memory_bytes(members[process.pid]),
                    cpus=round(cpus[process.pid], 3),
                    processes=report["processes"],
                    movable=not report["obstacles"],
                    obstacles=report["obstacles"],
                    notices=report["notices"],
                )
            )
    module.exit_json(changed=False, processes=answer)


if __name__ == "__main__":
    main()
