#!/usr/bin/python3
"""Runs the guest tests on a host that has KVM (tests/guest/run brings it there).

usage: suite.py [-k PATTERN] [--short] [-v] [-l] [-j JOBS] [-r TIMES] [--out DIR]

-k runs the tests whose name holds PATTERN (a regular expression), --short leaves out those that take
minutes or show little that others do not, -l lists them, -v shows every guest's console, -r runs each TIMES times. The
console logs of failed tests stay in DIR/NAME/.
"""
import argparse
import concurrent.futures
import glob
import importlib
import itertools
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import traceback

import harness

HERE = os.path.dirname(os.path.abspath(__file__))


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("-k", metavar="PATTERN", default="")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("-v", action="store_true")
    parser.add_argument("-l", action="store_true")
    parser.add_argument("-j", metavar="JOBS", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("-r", metavar="TIMES", type=int, default=1)
    parser.add_argument("--out", metavar="DIR",
                        default=os.environ.get("LAB_OUT") or os.path.join(harness.TOP, "build/guest-logs"))
    return parser.parse_args()


def keep_logs(context, out, name):
    base = folder = os.path.join(out, re.sub(r"[^A-Za-z0-9_.-]+", "_", name))
    for number in itertools.count(2):
        try:
            os.makedirs(folder)
            break
        except FileExistsError:
            folder = f"{base}.{number}"
    for path in glob.glob(os.path.join(context.folder, "*.log")):
        shutil.copy(path, folder)
    return folder


class Run:
    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.artefacts = harness.Artefacts(folder)
        self.folder = folder
        self.lock = threading.Lock()
        self.counts = {"ok": 0, "FAIL": 0, "SKIP": 0}

    def one(self, number, test):
        folder = os.path.join(self.folder, f"t{number}")
        os.mkdir(folder)
        context = harness.Context(folder, self.artefacts)
        start, outcome, detail = time.monotonic(), "ok", []
        try:
            test.run(context)
        except harness.Skip as skip:
            outcome, detail = "SKIP", [str(skip)]
        except harness.Failure as failure:
            outcome, detail = "FAIL", [str(failure)]
        except Exception:  # pylint: disable=broad-except  a fault of the test itself is a failure as well
            outcome, detail = "FAIL", traceback.format_exc().splitlines()
            detail.insert(0, detail[-1])
        seconds = time.monotonic() - start
        context.close()
        if outcome == "FAIL":
            detail += context.tails()
            detail.append("logs: " + keep_logs(context, self.arguments.out, test.name))
        elif self.arguments.v:
            detail += context.tails(1000)
        shutil.rmtree(folder, ignore_errors=True)
        with self.lock:
            self.counts[outcome] += 1
            if outcome == "SKIP":
                print(f"SKIP {test.name}: {detail[0]}", flush=True)
                return
            print(f"{outcome:4} {test.name} ({seconds:.1f} s)", flush=True)
            for line in detail:
                print(f"     | {line}", flush=True)

    def all(self, tests):
        with concurrent.futures.ThreadPoolExecutor(max(1, self.arguments.j)) as pool:
            list(pool.map(lambda item: self.one(*item), enumerate(tests)))


def main():
    arguments = parse_arguments()
    for path in sorted(glob.glob(os.path.join(HERE, "test_*.py"))):
        importlib.import_module(os.path.basename(path)[:-3])
    tests = [t for t in harness.TESTS if re.search(arguments.k, t.name)]
    if arguments.short:
        tests = [t for t in tests if not t.long()]
    if arguments.l:
        print("\n".join(t.name for t in tests))
        return 0
    tests *= arguments.r
    os.makedirs(arguments.out, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lodge-guest-", dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        run = Run(arguments, folder)
        run.all(tests)
    counts = run.counts
    line = f"{counts['ok']} passed, {counts['FAIL']} failed"
    if counts["SKIP"]:
        line += f", {counts['SKIP']} skipped"
    print(line)
    return 1 if counts["FAIL"] or not counts["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
