"""Runs osmoda-bridge as a user who is an agent and nothing else: `as_agent.py UID [OPTIONS]`.

Everything is imported first: the interpreter of a test run may lie where that user cannot read.
"""

import os
import sys

import bridge.local_http
import bridge.server
import bridge.tools  # noqa: F401
from bridge.__main__ import main

uid = int(sys.argv.pop(1))
if uid != os.geteuid():
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
main(prog_name="osmoda-bridge")
