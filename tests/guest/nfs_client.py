"""A raw NFSv4.1 client (RFC 8881 over ONC RPC, RFC 5531), for a guest that means ill: operations and handles as it likes.

An operation is made by a function of its name and goes into Client.run(); the answer has the status of the one that
failed, or of the last, and what each one gave.
"""
import os
import socket
import struct
import subprocess

NFS_PROGRAM, NFS_VERSION, COMPOUND = 100003, 4, 1
FRAGMENT_LAST = 1 << 31
REPLY_MAX = 4 << 20

STATUS = {0: "OK", 1: "PERM", 2: "NOENT", 5: "IO", 6: "NXIO", 13: "ACCESS", 17: "EXIST", 18: "XDEV", 20: "NOTDIR", 21: "ISDIR",
          22: "INVAL", 27: "FBIG", 28: "NOSPC", 30: "ROFS", 31: "MLINK", 63: "NAMETOOLONG", 66: "NOTEMPTY", 69: "DQUOT",
          70: "STALE", 10001: "BADHANDLE", 10003: "BAD_COOKIE", 10004: "NOTSUPP", 10005: "TOOSMALL", 10006: "SERVERFAULT",
          10007: "BADTYPE", 10008: "DELAY", 10010: "DENIED", 10012: "LOCKED", 10013: "GRACE", 10014: "FHEXPIRED",
          10016: "WRONGSEC", 10018: "RESOURCE", 10020: "NOFILEHANDLE", 10022: "STALE_CLIENTID", 10025: "BAD_STATEID",
          10029: "SYMLINK", 10032: "ATTRNOTSUPP", 10036: "BADXDR", 10038: "OPENMODE", 10039: "BADOWNER", 10040: "BADCHAR",
          10041: "BADNAME", 10044: "OP_ILLEGAL", 10052: "BADSESSION", 10053: "BADSLOT", 10070: "NOT_ONLY_OP",
          10071: "OP_NOT_IN_SESSION", 10083: "WRONG_TYPE"}

# types of files, and attributes by their number in a bitmap
NF4REG, NF4DIR, NF4BLK, NF4CHR, NF4LNK, NF4SOCK, NF4FIFO = range(1, 8)
TYPE, SIZE, FSID, ACL, FILEHANDLE, FILEID, MODE, OWNER, OWNER_GROUP, MOUNTED_ON_FILEID = 1, 4, 8, 12, 19, 20, 33, 36, 37, 55

ANONYMOUS = bytes(16)  # the stateid of one who has opened nothing
UNCHECKED, FILE_SYNC = 0, 2
READ, WRITE, BOTH = 1, 2, 3


class NfsError(Exception):
    """The server has hung up, refused the call, or said what nobody can read."""


class NfsRefused(NfsError):
    """By RPC: the call has not been looked at."""


def uint(value):
    return struct.pack(">I", value)


def hyper(value):
    return struct.pack(">Q", value)


def opaque(data):
    data = data.encode() if isinstance(data, str) else data
    return uint(len(data)) + data + bytes(-len(data) % 4)


def bitmap(*numbers):
    words = [0] * (max(numbers, default=-1) // 32 + 1)
    for number in numbers:
        words[number // 32] |= 1 << number % 32
    return uint(len(words)) + b"".join(map(uint, words))


def attributes(values):
    """A fattr4: of {number: encoded value}, in the order of the numbers."""
    return bitmap(*values) + opaque(b"".join(values[number] for number in sorted(values)))


class Reader:
    """Takes apart what the server says."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def fixed(self, size):
        if self.at + size > len(self.data):
            raise NfsError("the reply is too short")
        self.at += size
        return self.data[self.at - size:self.at]

    def uint(self):
        return struct.unpack(">I", self.fixed(4))[0]

    def hyper(self):
        return struct.unpack(">Q", self.fixed(8))[0]

    def opaque(self):
        size = self.uint()
        data = self.fixed(size)
        self.fixed(-size % 4)
        return data

    def numbers(self):
        words = [self.uint() for _ in range(self.uint())]
        return [32 * n + bit for n, word in enumerate(words) for bit in range(32) if word >> bit & 1]

    def attributes(self):
        """{number: value}; of the numbers above, those with a number or a string for a value."""
        wanted, inner = self.numbers(), Reader(self.opaque())
        readers = {TYPE: inner.uint, SIZE: inner.hyper, FSID: lambda: (inner.hyper(), inner.hyper()), FILEHANDLE: inner.opaque,
                   FILEID: inner.hyper, MODE: inner.uint, OWNER: lambda: inner.opaque().decode(),
                   OWNER_GROUP: lambda: inner.opaque().decode(), MOUNTED_ON_FILEID: inner.hyper}
        return {number: readers[number]() for number in wanted}

    def change_info(self):
        self.fixed(20)

    def opened(self):
        stateid = self.fixed(16)
        self.change_info()
        self.uint()
        self.numbers()
        if self.uint() not in (0, 3):
            raise NfsError("a delegation that nobody asked for")
        return stateid

    def entries(self):
        """{name: attributes} of a READDIR, its last cookie, and whether that is all."""
        self.fixed(8)
        found, cookie = {}, 0
        while self.uint():
            cookie = self.hyper()
            name = self.opaque()
            found[name] = self.attributes()
        return found, cookie, bool(self.uint())


# what each operation gives, by its number
RESULTS = {3: lambda r: (r.uint(), r.uint())[1], 4: lambda r: r.fixed(16), 6: lambda r: (r.change_info(), r.numbers()), 9: Reader.attributes,
           10: Reader.opaque, 11: Reader.change_info, 12: lambda r: r.fixed(16), 18: Reader.opened,
           25: lambda r: (r.uint(), r.opaque())[1], 26: Reader.entries, 27: Reader.opaque, 28: Reader.change_info,
           29: lambda r: (r.change_info(), r.change_info()), 34: Reader.numbers, 38: lambda r: (r.uint(), r.uint(), r.fixed(8))[0],
           42: lambda r: (r.hyper(), r.uint()), 43: lambda r: r.fixed(16), 53: lambda r: r.fixed(36)}


def access(bits=0x3f):
    return 3, uint(bits)


def close(stateid):
    return 4, uint(0) + stateid


def create(kind, name, values=None, special=(0, 0), target=""):
    extra = opaque(target) if kind == NF4LNK else uint(special[0]) + uint(special[1]) if kind in (NF4BLK, NF4CHR) else b""
    return 6, uint(kind) + extra + opaque(name) + attributes(values or {})


def getattr_(*numbers):
    return 9, bitmap(*numbers)


def getfh():
    return 10, b""


def link(name):
    return 11, opaque(name)


def lock(stateid, owner, offset, length, write=True, clientid=0):
    """The first of this owner on a file that stateid has opened."""
    return 12, uint(2 if write else 1) + uint(0) + hyper(offset) + hyper(length) + uint(1) + uint(0) + stateid + uint(0) + \
        hyper(clientid) + opaque(owner)


def lookup(name):
    return 15, opaque(name)


def lookupp():
    return 16, b""


def open_(clientid, name, values=None, how=BOTH, make=True):
    """By name, in the current directory, which OPEN replaces; made with these attributes where it is not there."""
    return 18, uint(0) + uint(how) + uint(0) + hyper(clientid) + opaque(b"owner") + \
        (uint(1) + uint(UNCHECKED) + attributes(values or {}) if make else uint(0)) + uint(0) + opaque(name)


def putfh(handle):
    return 22, opaque(handle)


def putpubfh():
    return 23, b""


def putrootfh():
    return 24, b""


def read(offset, count, stateid=ANONYMOUS):
    return 25, stateid + hyper(offset) + uint(count)


def readdir(cookie=0, numbers=(FILEID,), verifier=bytes(8), count=1 << 16):
    return 26, hyper(cookie) + verifier + uint(count) + uint(count) + bitmap(*numbers)


def readlink():
    return 27, b""


def remove(name):
    return 28, opaque(name)


def rename(old, new):
    return 29, opaque(old) + opaque(new)


def restorefh():
    return 31, b""


def savefh():
    return 32, b""


def setattr_(values, stateid=ANONYMOUS):
    return 34, stateid + attributes(values)


def write(offset, data, stateid=ANONYMOUS):
    return 38, stateid + hyper(offset) + uint(FILE_SYNC) + opaque(data)


def auth_sys(uid, gid, groups=()):
    return uint(1) + opaque(uint(0) + opaque("guest") + uint(uid) + uint(gid) + uint(len(groups)) + b"".join(map(uint, groups)))


class Answer:
    """Of a compound: the name of its status, and what its operations gave (None: nothing)."""

    def __init__(self, status, results):
        self.status, self.results = STATUS.get(status, str(status)), results  # of a call that was not looked at, "REFUSED"

    @property
    def ok(self):
        return self.status == "OK"

    @property
    def last(self):
        if not self.ok:
            raise NfsError(f"the server says {self.status}")
        return self.results[-1]

    def __repr__(self):
        return f"{self.status} {self.results}"


class Pipe:
    """The byte stream of a command's input and output; like a socket, as far as is needed here."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def sendall(self, data):
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view):]

    def recv(self, size):
        return self.process.stdout.read(size)

    def close(self):
        self.process.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def connect(address, port=2049, timeout_s=20):
    return socket.create_connection((address, port), timeout_s)


class Client:
    """A session with a server, over `stream`; claims to be `uid`."""

    def __init__(self, stream, uid=0, gid=0):
        self.stream, self.credentials = stream, auth_sys(uid, gid)
        self.xid, self.sequence, self.session, self.clientid = int.from_bytes(os.urandom(3), "big"), 0, None, 0

    def __enter__(self):
        self.establish()
        return self

    def __exit__(self, *_):
        self.stream.close()

    def received(self, size):
        data = b""
        while len(data) < size:
            chunk = self.stream.recv(size - len(data))
            if not chunk:
                raise NfsError("the server has hung up")
            data += chunk
        return data

    def record(self):
        data, last = b"", False
        while not last:
            head = struct.unpack(">I", self.received(4))[0]
            last, size = bool(head & FRAGMENT_LAST), head & ~FRAGMENT_LAST
            if len(data) + size > REPLY_MAX:
                raise NfsError(f"a reply of {len(data) + size} bytes")
            data += self.received(size)
        return data

    def call(self, procedure, body):
        """One RPC; returns what follows its header."""
        self.xid += 1
        message = uint(self.xid) + uint(0) + uint(2) + uint(NFS_PROGRAM) + uint(NFS_VERSION) + uint(procedure) + \
            self.credentials + uint(0) + uint(0) + body
        self.stream.sendall(uint(FRAGMENT_LAST | len(message)) + message)
        while True:
            reader = Reader(self.record())
            if reader.uint() == self.xid:
                break
        if reader.uint() != 1 or reader.uint() != 0:
            raise NfsRefused("the server has denied the call")
        reader.uint()
        reader.opaque()
        if reader.uint() != 0:
            raise NfsRefused("the server has not accepted the call")
        return reader

    def compound(self, *operations):
        reader = self.call(COMPOUND, opaque("") + uint(1) + uint(len(operations)) +
                           b"".join(uint(number) + body for number, body in operations))
        status = reader.uint()
        reader.opaque()
        results = []
        for _ in range(reader.uint()):
            number, one = reader.uint(), reader.uint()
            decode = RESULTS.get(number)
            if one == 0:
                results.append(decode(reader) if decode else None)
            else:
                break  # the last; what comes with an error is of no interest
        return Answer(status, results)

    def establish(self):
        owner = os.urandom(8) + opaque(os.urandom(16))
        self.clientid, first = self.compound((42, owner + uint(0) + uint(0) + uint(0))).last
        channel = uint(0) + uint(1 << 20) + uint(1 << 20) + uint(8192) + uint(64) + uint(1) + uint(0)
        self.session = self.compound((43, hyper(self.clientid) + uint(first) + uint(0) + channel + channel + uint(0x40000000) +
                                      uint(1) + uint(0))).last
        self.sequence = 0
        self.run((58, uint(0)))  # RECLAIM_COMPLETE: nothing to reclaim

    def run(self, *operations):
        """One compound in the session; the answer is without that of SEQUENCE."""
        sequence = self.session + uint(self.sequence + 1) + uint(0) + uint(0) + uint(0)
        try:
            answer = self.compound((53, sequence), *operations)
        except NfsRefused:
            return Answer("REFUSED", [])
        self.sequence += 1
        del answer.results[:1]
        return answer

    def handle(self, *names):
        """Of what these names lead to, from the server's root."""
        return self.run(putrootfh(), *map(lookup, names), getfh()).last
