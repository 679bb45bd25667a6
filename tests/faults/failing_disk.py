"""Runs commands on a disk that fails (failing_disk.c is preloaded), and each again on the same disk, mended.

Reads cases from stdin, a JSON list: {"arguments": [...], "root": folder, "fault": "CALL ERRNO PART"}. Answers a list
of pairs of outcomes: exit code, stdout, stderr.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from conftest import Shell

answers = []
with contextlib.redirect_stdout(sys.stderr):
    for case in json.load(sys.stdin):
        shell = Shell(Path(case["root"]))
        os.environ["DISK_FAULT"] = case["fault"]
        failed = shell(*case["arguments"])
        os.environ["DISK_FAULT"] = ""
        left = [str(path) for path in shell.root.rglob("*") if path.name.endswith(".partial")]
        again = shell(*case["arguments"])
        answers.append([[each.code, each.out, each.err] for each in (failed, again)] + [left])
print(json.dumps(answers))
