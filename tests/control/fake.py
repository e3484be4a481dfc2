"""A server of canned answers, for what a real one does rarely: odd answers, slow ones, connections that end."""

import os
import socket
import struct
import tempfile
import threading

from rig import lodge

REQUEST, RESPONSE, DATA = lodge.REQUEST, lodge.RESPONSE, lodge.DATA


class Conn:
    """One connection, as a handler sees it."""

    def __init__(self, sock):
        self.sock = sock

    def frame(self, stream, kind, flags, data):
        self.sock.sendall(struct.pack(">IIBB", len(data), stream, kind, flags) + data)

    def receive(self):
        """stream, type, flags, data; None: the client has left"""
        head = self.exactly(10)
        if head is None:
            return None
        length, stream, kind, flags = struct.unpack(">IIBB", head)
        return stream, kind, flags, self.exactly(length)

    def exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                return None
            data += more
        return data


class Call:
    def __init__(self, conn, stream, method, payload):
        self.conn, self.stream, self.method = conn, stream, method
        self.request = lodge.METHODS[method][1].FromString(payload)

    def reply(self, **fields):
        self.raw_reply(lodge.METHODS[self.method][2](**fields).SerializeToString())

    def raw_reply(self, payload):
        self.conn.frame(self.stream, RESPONSE, 0, lodge.message("ttrpc.Response")(payload=payload).SerializeToString())

    def fail(self, code, text):
        status = lodge.message("ttrpc.Status")(code=code, message=text)
        self.conn.frame(self.stream, RESPONSE, 0, lodge.message("ttrpc.Response")(status=status).SerializeToString())

    def send(self, **fields):
        self.conn.frame(self.stream, DATA, 0, lodge.METHODS[self.method][2](**fields).SerializeToString())

    def end(self):
        self.conn.frame(self.stream, DATA, lodge.REMOTE_CLOSED | lodge.NO_DATA, b"")

    def typed(self):
        """The client's messages, until it sends no more or leaves."""
        while True:
            frame = self.conn.receive()
            if frame is None or frame[2] & lodge.REMOTE_CLOSED:
                return
            yield lodge.METHODS[self.method][1].FromString(frame[3])


class Fake:
    """`with Fake(Method=handler, ...) as socket`: handler(call) answers; other methods are UNIMPLEMENTED."""

    def __init__(self, **handlers):
        self.handlers = handlers
        self.dir = tempfile.TemporaryDirectory(prefix="lodge-fake-", dir="/tmp")
        self.path = os.path.join(self.dir.name, "sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen()

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self.path

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.dir.cleanup()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        conn = Conn(sock)
        try:
            while True:
                frame = conn.receive()
                if frame is None:
                    break
                stream, kind, _, data = frame
                if kind != REQUEST:
                    continue
                request = lodge.message("ttrpc.Request").FromString(data)
                call = Call(conn, stream, request.method, request.payload)
                handler = self.handlers.get(request.method)
                if handler:
                    handler(call)
                else:
                    call.fail(12, "no such method")
        except OSError:
            pass
        sock.close()
