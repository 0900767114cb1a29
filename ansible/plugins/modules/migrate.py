#!/usr/bin/python
# -*- coding: utf-8 -*-
# Copyright (c) 2026 the phaul authors
# MIT License (see LICENSE)
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: migrate
short_description: Moves a running process to another host while it keeps working
description:
  - Moves a process of this host, with all that descend from it, to another host by C(phaul migrate).
  - A process that is on the other host already is not moved. One named by I(match) is looked for there by the same expression,
    others by their pid, which C(phaul status) here must know to have been moved there.
  - A process that can't be moved runs on here, and the module fails with the reason.
  - Check mode asks both hosts whether it could be moved, and fails if it can't.
version_added: 0.1.0
author: The phaul developers (@phaul)
options:
  to:
    description: "The other host: [USER@]HOST[:PORT]. This host must be able to log in there as root, or as a user who may C(sudo -n phaul)."
    type: str
    required: true
  max_downtime:
    description: Freeze as soon as the predicted downtime is this short, in ms.
    type: int
  streams:
    description: Parallel page streams, 1 to 16.
    type: int
  on_diverge:
    description: When rounds stop shrinking, C(freeze) anyway or C(abort).
    type: str
    choices: [freeze, abort]
  tracker:
    description: How pages that are written are found. C(auto) is the best that the kernel has.
    type: str
    choices: [auto, uffd, soft-dirty, none]
  bandwidth:
    description: Send no more than this a second while the process runs, in bytes, or with C(K), C(M) or C(G).
    type: str
  freeze_timeout:
    description: Let the process go on here if it stands still for longer than this before the commit, in ms.
    type: int
  manage_cgroups:
    description: Control groups, in criu's terms. Without it, processes are put where they were if there is such a group.
    type: str
    choices: [ignore, none, props, soft, full, strict]
  cgroup_root:
    description: Groups in the place of those that the processes were in, as [CONTROLLER:]/PATH.
    type: list
    elements: str
    default: []
  hook:
    description: A program of this host to be run at named points of the move.
    type: path
  report_file:
    description: Write a page here, on this host, that shows the migration.
    type: path
  verify:
    description: Compare the memory of both sides while frozen, which costs downtime.
    type: bool
    default: false
  timeout:
    description: Give up, with the process running here, after this many seconds.
    type: int
extends_documentation_fragment:
  - phaul.fleet.phaul
  - phaul.fleet.phaul.subject
attributes:
  check_mode:
    description: Can run in check mode without changing anything.
    support: full
notes:
  - With I(service), the unit is kept from starting its program anew when the process has left; it is inactive afterwards.
seealso:
  - module: phaul.fleet.check
  - module: phaul.fleet.processes
"""

EXAMPLES = r"""
- name: The cache goes to beta
  phaul.fleet.migrate:
    match: redis-server .*:6379
    to: root@beta

- name: A process by its pid, with the address that its clients know
  phaul.fleet.migrate:
    pid: 4242
    to: root@beta
    move_ip: [10.0.0.7/24]
    max_downtime: 50

- name: A service, with its files, to a host that has none of them
  phaul.fleet.migrate:
    service: redis-server
    to: root@beta
    files: copy
    stdio: /var/log/redis/moved.log
    as_service: redis-moved
"""

RETURN = r"""
pid:
  description: The pid on this host. It is the same on the other one, or, with C(pid_namespace=new), the one that the process itself sees there.
  returned: when a process was found
  type: int
  sample: 4242
outcome:
  description:
    - C(moved), C(failed) with the process running here as before, or C(unknown), when nobody knows where it is and C(report) says where to look.
    - C(there) if it was there already, C(movable) in check mode.
  returned: always, but for wrong use
  type: str
obstacles:
  description: What kept it from moving.
  returned: when it wasn't moved for obstacles
  type: list
  elements: dict
report:
  description: The last event of C(phaul migrate --json), with the downtime, the rounds and the error; the preflight event in check mode.
  returned: when phaul was run
  type: dict
  sample: {"event": "done", "outcome": "moved", "host": "beta", "downtimeMs": 3.1, "totalMs": 2940, "bytesSent": 625200000}
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.phaul.fleet.plugins.module_utils.phaul import REACH, SUBJECT, Phaul, roots

DROP_INS = "/run/systemd/system"
OPTIONS = dict(
    max_downtime=dict(type="int"),
    streams=dict(type="int"),
    on_diverge=dict(type="str", choices=["freeze", "abort"]),
    tracker=dict(type="str", choices=["auto", "uffd", "soft-dirty", "none"]),
    bandwidth=dict(type="str"),
    freeze_timeout=dict(type="int"),
    manage_cgroups=dict(type="str", choices=["ignore", "none", "props", "soft", "full", "strict"]),
    cgroup_root=dict(type="list", elements="str", default=[]),
    hook=dict(type="path"),
    verify=dict(type="bool", default=False),
    timeout=dict(type="int"),
)


class Service(object):
    """A systemd unit whose process leaves: it must not be started anew meanwhile, for then there would be two."""

    def __init__(self, module, name):
        self.module = module
        self.name = name if "." in name else name + ".service"
        self.drop_in = os.path.join(DROP_INS, self.name + ".d", "phaul.conf")

    def systemctl(self, *words):
        rc, out, err = self.module.run_command(["systemctl"] + list(words))
        if rc != 0:
            self.module.fail_json(msg="systemctl %s failed: %s" % (" ".join(words), err.strip() or out.strip()), rc=rc)
        return out.strip()

    def main_pid(self):
        return int(self.systemctl("show", "--property", "MainPID", "--value", self.name) or 0)

    def hold(self):
        if not os.path.isdir(os.path.dirname(self.drop_in)):
            os.makedirs(os.path.dirname(self.drop_in))
        with open(self.drop_in, "w") as drop_in:
            drop_in.write("[Service]\nRestart=no\n")
        self.systemctl("daemon-reload")

    def let_go(self, moved):
        if moved:
            self.systemctl("stop", self.name)
            self.module.run_command(["systemctl", "reset-failed", self.name])
        os.remove(self.drop_in)
        self.systemctl("daemon-reload")


def find(module, phaul, service):
    """The pid to be moved; otherwise says that it is there already, or that it is nowhere."""
    given = module.params
    here = phaul.processes()
    if given["match"]:
        found = roots(here, given["match"])
        if len(found) > 1:
            module.fail_json(
                msg="%d processes match '%s', one is to be moved: %s" % (len(found), given["match"], "; ".join("%d %s" % (p.pid, p.command) for p in found)),
                outcome="failed",
            )
        if found:
            return found[0].pid
        there = roots(phaul.processes(given["to"]), given["match"])
        if there:
            module.exit_json(changed=False, pid=there[0].pid, outcome="there")
        module.fail_json(msg="No process matches '%s', neither here nor on %s." % (given["match"], given["to"]), outcome="failed")
    pid = given["pid"] or service.main_pid()
    if pid in here:
        return pid
    if not pid:
        module.fail_json(msg="The unit %s has no main process here." % service.name, outcome="failed")
    if phaul.moved_away(pid) and any(process.inside == pid for process in phaul.processes(given["to"]).values()):
        module.exit_json(changed=False, pid=pid, outcome="there")
    module.fail_json(msg="There is no process %d here, and none on %s that this host has moved there." % (pid, given["to"]), outcome="failed", pid=pid)


def refuse(module, pid, report, obstacles, message):
    reasons = "; ".join(obstacle["sentence"] for obstacle in obstacles)
    module.fail_json(msg=message if not reasons or reasons in message else "%s %s" % (message, reasons), pid=pid, outcome="failed", obstacles=obstacles, report=report)


def look(module, phaul, pid):
    report = phaul.check(pid, module.params["to"])
    if report is None:
        module.fail_json(msg="Process %d has ended." % pid, outcome="failed", pid=pid)
    if report["obstacles"]:
        refuse(module, pid, report, report["obstacles"], "Process %d (%s) can't move to %s:" % (pid, report["comm"], module.params["to"]))
    module.exit_json(changed=True, pid=pid, outcome="movable", report=report)


def move(module, phaul, pid):
    report = ["--report", module.params["report_file"]] if module.params["report_file"] else []
    return phaul.run(["migrate", str(pid), module.params["to"]] + phaul.options() + phaul.options(OPTIONS) + report)


def main():
    module = AnsibleModule(
        argument_spec=dict(
            dict(REACH, **dict(SUBJECT, **OPTIONS)),
            to=dict(type="str", required=True),
            report_file=dict(type="path"),
        ),
        mutually_exclusive=[("pid", "service", "match")],
        required_one_of=[("pid", "service", "match")],
        supports_check_mode=True,
    )
    phaul = Phaul(module)
    service = Service(module, module.params["service"]) if module.params["service"] else None
    pid = find(module, phaul, service)
    if module.check_mode:
        look(module, phaul, pid)
    if service:
        service.hold()
    rc, report = None, {}
    try:
        rc, report = move(module, phaul, pid)
    finally:
        # Where it is unknown, a second one must not be started here either.
        if service and rc is not None and rc != 3:
            service.let_go(rc == 0)
    if rc == 0:
        module.exit_json(changed=True, pid=pid, outcome="moved", report=report)
    error = report.get("error", {})
    if rc == 1:
        refuse(module, pid, report, error.get("obstacles", []), error.get("message", "phaul said nothing."))
    if rc == 2:
        module.fail_json(msg=error.get("message", "phaul was used wrongly."), pid=pid, outcome="failed", report=report)
    module.fail_json(msg=error.get("message", "phaul ended with %s and said nothing of where process %d is: look on both hosts." % (rc, pid)), pid=pid, outcome="unknown", report=report)


if __name__ == "__main__":
    main()
