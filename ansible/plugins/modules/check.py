#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026 the phaul authors
# MIT License (see LICENSE)
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: check
short_description: Tells whether a running process can be moved
description:
  - Asks phaul for all that keeps a process from moving, and with I(to) also what the other host lacks for it.
  - Nothing is touched. Obstacles are an answer, and no failure, see C(movable).
version_added: 0.1.0
author: The phaul developers (@phaul)
options:
  pid:
    description: The process, with all that descend from it.
    type: int
    required: true
  to:
    description: "The other host: [USER@]HOST[:PORT]."
    type: str
extends_documentation_fragment:
  - phaul.fleet.phaul
attributes:
  check_mode:
    description: Can run in check mode without changing anything.
    support: full
seealso:
  - module: phaul.fleet.migrate
  - module: phaul.fleet.processes
"""

EXAMPLES = r"""
- name: Can it go to beta?
  phaul.fleet.check:
    pid: 4242
    to: root@beta
    files: copy
  register: answer
  failed_when: not answer.movable
"""

RETURN = r"""
movable:
  description: Whether there is no obstacle.
  returned: success
  type: bool
obstacles:
  description: What keeps it from moving, each with a sentence that says how it is mended.
  returned: success
  type: list
  elements: dict
  sample: [{"code": "FD_KIND", "host": "alpha", "subject": "fd 4", "sentence": "fd 4 is an io_uring instance: ..."}]
notices:
  description: What will be different on the other host.
  returned: success
  type: list
  elements: dict
report:
  description: The preflight event of C(phaul check --json).
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.phaul.fleet.plugins.module_utils.phaul import REACH, Phaul


def main():
    module = AnsibleModule(argument_spec=dict(REACH, pid=dict(type="int", required=True), to=dict(type="str")), supports_check_mode=True)
    pid = module.params["pid"]
    report = Phaul(module).check(pid, module.params["to"])
    if report is None:
        module.fail_json(msg="There is no process %d on this host." % pid, report={})
    module.exit_json(changed=False, movable=not report["obstacles"], obstacles=report["obstacles"], notices=report["notices"], report=report)


if __name__ == "__main__":
    main()
