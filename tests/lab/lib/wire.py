"""Frames between the machine (run.py) and the agent in the lab's host, over one virtio-serial port.

A frame is: type, 1 byte; length, 4 bytes big-endian; that many bytes.

  to the agent    G  go: the job's disks are there; JSON {time_ns, entropy}
                  0  standard input; empty: its end
                  W  JSON {rows, cols}: the terminal's size
  to the machine  H  hello: the agent waits for a job
                  S  the command is started; nothing
                  1  standard output
                  2  standard error
                  F  part of a tar with the files of $LAB_OUT
                  X  JSON {status}: the command's exit status; the last frame

Both ends trust each other: the lab is a test bed, not a sandbox.
"""
import struct

HEADER = struct.Struct(">cI")
CHUNK_BYTES = 32 * 1024


def pack(kind, data=b""):
    return HEADER.pack(kind, len(data)) + data


class Decoder:
    """Cuts a byte stream into frames."""

    def __init__(self):
        self.buffer = bytearray()

    def feed(self, data):
        self.buffer += data
        while len(self.buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(self.buffer)
            end = HEADER.size + length
            if len(self.buffer) < end:
                return
            payload = bytes(self.buffer[HEADER.size:end])
            del self.buffer[:end]
            yield kind, payload
