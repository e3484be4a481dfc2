#!/usr/bin/python3
"""Prints, as JSON, the command that the agent in the lab's host is to run.

  job.py STREAMS ARGV...   STREAMS: terminal, pipes, or none (standard input is empty)

It stands in the last 1 MiB of the job's disk, after a squashfs with the files.
"""
import fcntl
import json
import os
import struct
import sys
import termios

# What of the caller's environment the command sees too.
ENV_NAMES = ("TERM", "LANG", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS")
ENV_PREFIXES = ("LODGE_", "LAB_")
ENV_NOT = ("LODGE_CACHE", "LAB_OUT")
JOB_MAX_BYTES = 1 << 20


def passed(name):
    return (name in ENV_NAMES or name.startswith(ENV_PREFIXES)) and name not in ENV_NOT


def main():
    streams, argv = sys.argv[1], sys.argv[2:]
    job = {"argv": argv, "stdin": streams, "env": {k: v for k, v in os.environ.items() if passed(k)}}
    if streams == "terminal":
        rows, cols, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
        job["terminal"] = {"rows": rows, "cols": cols}
    text = json.dumps(job)
    if len(text) >= JOB_MAX_BYTES:
        sys.exit("lab: the command line is too long")
    print(text)


if __name__ == "__main__":
    main()
