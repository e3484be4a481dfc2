"""Client of lodge's control socket: one file over the stock protobuf runtime (python3-protobuf).

    from lodge import Lodge
    with Lodge() as lodge:                       # $LODGE_SOCKET, else /run/lodge/socket; or Lodge(path)
        reply = lodge.StartVm(name="a", vm={"kernel": "/boot/vmlinuz", "rootfs": "/srv/root.img"})
        if not reply.success:
            raise SystemExit(reply.failure_reason)
        for event in lodge.stream("WatchEvents", name="a"):
            if event.state == 0 and not event.initial_done:
                print("a has ended:", event.reason)
                break
        print(lodge.exec("a", ["uname", "-r"]).stdout)
        lodge.StopVm(name="a")

Each method of the services is a method here: fields as keyword arguments in, the response message
out; nested messages are dictionaries. One thread at a time; a call waits for its answer.

    call, finish        lodge.call("StopVm", timeout_ns=10**9, name="a"), with a deadline that the server keeps;
                        begin() and finish() for several calls at the same time
    stream              an iterator over what WatchEvents or ReadConsole sends; leaving it is allowed
    open                AttachConsole, ExecInGuest: a Duplex, to send() to and to iterate over
    exec                a program in the guest, to its end: like subprocess.run()
    read_file, write_file   a file of the guest, as bytes
    message, to_json    the class of a message by its name; a message as JSON

RpcError: the call itself failed (a ttrpc status; .code is a key of CODES). StartVm, StopVm, GetVmInfo and the
calls for images say in their answer what they could not do. ConnectionError, FileNotFoundError, PermissionError:
the socket. TimeoutError: no answer within `timeout` seconds of the constructor; then close.
"""

import os
import socket
import struct

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

SOCKET_DEFAULT = "/run/lodge/socket"
DATA_MAX = 4 << 20
REQUEST, RESPONSE, DATA = 1, 2, 3
REMOTE_CLOSED, REMOTE_OPEN, NO_DATA, GIVEN_UP = 1, 2, 4, 128  # flags
WINDOW = 256 << 10  # what may be on its way to a process or a file of a guest
PIECE = 32 << 10
CODES = {
    0: "OK", 1: "CANCELLED", 2: "UNKNOWN", 3: "INVALID_ARGUMENT", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND",
    6: "ALREADY_EXISTS", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED", 9: "FAILED_PRECONDITION", 10: "ABORTED",
    11: "OUT_OF_RANGE", 12: "UNIMPLEMENTED", 13: "INTERNAL", 14: "UNAVAILABLE", 15: "DATA_LOSS",
    16: "UNAUTHENTICATED",
}

# package, then messages (name: field=number type) and enums (name| value=number); "*": repeated
_SCHEMA = {
    "vm_tools.concierge": """
        VirtualMachineSpec: kernel=1 string, rootfs=2 string, rootfs_type=100 DiskImageType, rootfs_writable=101 bool,
            rootfs_fstype=102 string, rootfs_partition=103 uint32, command_line=104 string, initrd=105 string,
            no_initramfs=106 bool, modules_dir=107 string, init=108 string, no_agent=109 bool,
            rootfs_label=110 string, rootfs_bytes_per_s=111 uint64, rootfs_ops_per_s=112 uint64
        DiskImageType| DISK_IMAGE_RAW=0, DISK_IMAGE_QCOW2=1
        DiskImage: path=1 string, mount_point=2 string, fstype=3 string, flags=4 uint64, data=5 string,
            writable=6 bool, do_mount=7 bool, image_type=8 DiskImageType, direct=100 bool, serial=101 string,
            mkfs_if_blank=102 bool, bytes_per_s=103 uint64, ops_per_s=104 uint64
        VmState| VM_STATE_UNKNOWN=0, VM_STATE_STARTING=1, VM_STATE_RUNNING=2, VM_STATE_STOPPING=3, VM_STATE_PAUSED=100
        VmInfo: ipv4_address=1 fixed32, pid=2 int32, cid=3 int64, state=100 VmState, name=101 string, cpus=102 uint32,
            memory_bytes=103 uint64, disk_paths=104 *string, agent_ready=105 bool, container_subnet=110 string
        VmTransport| VM_TRANSPORT_PCI=0, VM_TRANSPORT_MMIO=1
        StartVmRequest: vm=1 VirtualMachineSpec, disks=2 *DiskImage, shared_directory=3 string, name=4 string,
            start_termina=5 bool, cpus=100 uint32, memory_bytes=101 uint64, transport=102 VmTransport,
            start_timeout_ms=103 uint32, networks=104 *string, shares=105 *SharedDirectory, share_user=106 string
        SharedDirectory: path=1 string, mount_point=2 string, read_only=3 bool, user=4 string
        StartVmResponse: success=1 bool, failure_reason=2 string, vm_info=3 VmInfo
        StopVmRequest: name=1 string, timeout_ms=100 uint32, force=101 bool
        StopVmResponse: success=1 bool, failure_reason=2 string
        GetVmInfoRequest: name=1 string
        GetVmInfoResponse: success=1 bool, vm_info=2 VmInfo
        StorageLocation| STORAGE_CRYPTOHOME_ROOT=0, STORAGE_CRYPTOHOME_DOWNLOADS=1
        DiskImageStatus| DISK_STATUS_UNKNOWN=0, DISK_STATUS_CREATED=1, DISK_STATUS_EXISTS=2, DISK_STATUS_FAILED=3,
            DISK_STATUS_DOES_NOT_EXIST=4, DISK_STATUS_DESTROYED=5
        CreateDiskImageRequest: cryptohome_id=1 string, disk_path=2 string, disk_size=3 uint64,
            image_type=4 DiskImageType, storage_location=5 StorageLocation
        CreateDiskImageResponse: status=1 DiskImageStatus, disk_path=2 string, failure_reason=3 string
        DestroyDiskImageRequest: cryptohome_id=1 string, disk_path=2 string, storage_location=3 StorageLocation
        DestroyDiskImageResponse: status=1 DiskImageStatus, failure_reason=3 string
    """,
    "lodge.agent.v1": """
        GetFactsRequest:
        GetFactsResponse: agent_version=1 string, kernel_release=2 string, kernel_version=3 string, machine=4 string,
            hostname=5 string, os=6 string, uptime_ns=7 uint64, time_ns=8 int64, memory_bytes=9 uint64,
            memory_available_bytes=10 uint64, cpus=11 uint32, disks=12 *Disk, filesystems=13 *Filesystem,
            interfaces=14 *Interface
        Disk: name=1 string, size_bytes=2 uint64, read_only=3 bool
        Filesystem: source=1 string, target=2 string, fstype=3 string, read_only=4 bool, size_bytes=5 uint64,
            available_bytes=6 uint64
        Interface: name=1 string, mac=2 string, up=3 bool, addresses=4 *string, mtu=5 uint32
        MountRequest: source=1 string, target=2 string, fstype=3 string, flags=4 uint64, data=5 string,
            mkfs_if_blank=6 bool, wait_ms=7 uint32
        MountResponse: made=1 bool
        UnmountRequest: target=1 string, detach=2 bool
        UnmountResponse:
        GrowFilesystemRequest: target=1 string
        GrowFilesystemResponse: old_size_bytes=1 uint64, size_bytes=2 uint64
        SetTimeRequest: time_ns=1 int64
        SetTimeResponse: step_ns=1 int64
        TerminalSize: rows=1 uint32, columns=2 uint32
        ExecStart: argv=1 *string, env=2 *string, cwd=3 string, user=4 string, terminal=5 TerminalSize, detach=6 bool,
            open_stdin=7 bool, merge_stderr=8 bool, login_shell=9 bool, window_bytes=10 uint64
        ExecRequest: start=1 ExecStart, stdin_data=2 bytes, stdin_end=3 bool, signal=4 uint32, resize=5 TerminalSize,
            taken_bytes=6 uint64
        ExecExited: status=1 uint32, signal=2 uint32, core_dumped=3 bool
        ExecResponse: pid=1 uint32, stdout_data=2 bytes, stderr_data=3 bytes, stdin_taken_bytes=4 uint64,
            exited=5 ExecExited
        FileAttributes: mode=1 uint32, uid=2 uint32, gid=3 uint32, mtime_ns=4 int64, size_bytes=5 uint64
        WriteFileOpen: path=1 string, name=2 string, attributes=3 FileAttributes, make_directories=4 bool
        WriteFileRequest: open=1 WriteFileOpen, data=2 bytes
        WriteFileResponse: taken_bytes=1 uint64
        ReadFileRequest: path=1 string, window_bytes=2 uint64, taken_bytes=3 uint64
        ReadFileResponse: attributes=1 FileAttributes, data=2 bytes
        FileType| FILE_TYPE_OTHER=0, FILE_TYPE_REGULAR=1, FILE_TYPE_DIRECTORY=2, FILE_TYPE_LINK=3
        FileEntry: name=1 bytes, type=2 FileType, attributes=3 FileAttributes, link_target=4 bytes
        ListFilesRequest: path=1 string, no_entries=2 bool, skip_entries=3 uint64
        ListFilesResponse: self=1 FileEntry, entries=2 *FileEntry, more=3 bool
        MakeEntryRequest: path=1 string, type=2 FileType, attributes=3 FileAttributes, link_target=4 string,
            make_directories=5 bool
        MakeEntryResponse:
    """,
    "lodge.v1": """
        GetGuestFactsRequest: name=1 string, request=2 .lodge.agent.v1.GetFactsRequest
        MountInGuestRequest: name=1 string, request=2 .lodge.agent.v1.MountRequest
        UnmountInGuestRequest: name=1 string, request=2 .lodge.agent.v1.UnmountRequest
        GrowGuestFilesystemRequest: name=1 string, request=2 .lodge.agent.v1.GrowFilesystemRequest
        SetGuestTimeRequest: name=1 string, request=2 .lodge.agent.v1.SetTimeRequest
        ListGuestFilesRequest: name=1 string, request=2 .lodge.agent.v1.ListFilesRequest
        MakeGuestEntryRequest: name=1 string, request=2 .lodge.agent.v1.MakeEntryRequest
        ExecInGuestRequest: name=1 string, request=2 .lodge.agent.v1.ExecRequest
        WriteGuestFileRequest: name=1 string, request=2 .lodge.agent.v1.WriteFileRequest
        ReadGuestFileRequest: name=1 string, request=2 .lodge.agent.v1.ReadFileRequest
        GetServerInfoRequest:
        GetServerInfoResponse: version=1 string, pid=2 int32, uptime_ns=3 uint64, vms=4 uint32, read_only=5 bool
        ListVmsRequest:
        ListVmsResponse: vms=1 *.vm_tools.concierge.VmInfo
        StopAllVmsRequest: timeout_ms=1 uint32, force=2 bool
        StopAllVmsResponse:
        VmEnd| VM_END_UNKNOWN=0, VM_END_POWEROFF=1, VM_END_REBOOT=2, VM_END_PANIC=3, VM_END_CRASH=4,
            VM_END_STOPPED=5, VM_END_START_FAILED=6, VM_END_ERROR=7, VM_END_KILLED=8
        WaitVmRequest: name=1 string
        WaitVmResponse: end=1 VmEnd, reason=2 string, exit_status=3 int32
        WatchEventsRequest: name=1 string
        VmEvent: time_ns=1 uint64, name=2 string, state=3 .vm_tools.concierge.VmState, pid=4 int32, initial=5 bool,
            end=6 VmEnd, reason=7 string, exit_status=8 int32, initial_done=9 bool
        ReadConsoleRequest: name=1 string, replay_bytes_max=2 uint64, no_replay=3 bool, no_follow=4 bool
        ConsoleInput: open=1 ReadConsoleRequest, data=2 bytes, line_break=3 bool
        ConsoleOutput: data=1 bytes, dropped_bytes=2 uint64, input_taken_bytes=3 uint64
        PauseVmRequest: name=1 string
        PauseVmResponse:
        ResumeVmRequest: name=1 string
        ResumeVmResponse:
        ResizeVmDiskRequest: name=1 string, disk=2 uint32, size_bytes=3 uint64
        ResizeVmDiskResponse: old_size_bytes=1 uint64
        SetVmLinkRequest: name=1 string, network=2 uint32, up=3 bool
        SetVmLinkResponse:
        GetMetricsRequest: name=1 string
        GetMetricsResponse: vms=1 *VmMetrics
        GetMetricsTextResponse: text=1 string
        VmMetrics: name=1 string, pid=2 int32, uptime_ns=3 uint64, resident_bytes=4 uint64, memory_bytes=5 uint64,
            vcpus=6 *VcpuMetrics, disks=7 *BlockMetrics, networks=8 *NetworkMetrics, console=9 ConsoleMetrics,
            cpu_time_ns=10 uint64
        VcpuMetrics: cpu_time_ns=1 uint64, exits=2 *ExitMetrics
        ExitMetrics: reason=1 string, count=2 uint64
        BlockMetrics: device=1 string, path=2 string, read=3 BlockOperationMetrics, write=4 BlockOperationMetrics,
            flush=5 BlockOperationMetrics, discard=6 BlockOperationMetrics, write_zeroes=7 BlockOperationMetrics,
            in_flight=8 uint64
        BlockOperationMetrics: operations=1 uint64, bytes=2 uint64, errors=3 uint64, latency=4 *uint64,
            latency_sum_ns=5 uint64
        NetworkMetrics: device=1 string, rx_packets=2 uint64, rx_bytes=3 uint64, rx_dropped=4 uint64,
            tx_packets=5 uint64, tx_bytes=6 uint64, tx_dropped=7 uint64, tx_spoofed=8 uint64, link_up=9 bool,
            tap=10 string
        ConsoleMetrics: out_bytes=1 uint64, in_bytes=2 uint64
        GetDiskImageInfoRequest: cryptohome_id=1 string, disk_path=2 string,
            storage_location=3 .vm_tools.concierge.StorageLocation, image_type=4 .vm_tools.concierge.DiskImageType
        GetDiskImageInfoResponse: path=1 string, size_bytes=2 uint64, allocated_bytes=3 uint64, in_use=4 bool
        ResizeDiskImageRequest: cryptohome_id=1 string, disk_path=2 string,
            storage_location=3 .vm_tools.concierge.StorageLocation, image_type=4 .vm_tools.concierge.DiskImageType,
            size_bytes=5 uint64, shrink=6 bool
        ResizeDiskImageResponse: old_size_bytes=1 uint64
        CheckDiskImageRequest: cryptohome_id=1 string, disk_path=2 string,
            storage_location=3 .vm_tools.concierge.StorageLocation, image_type=4 .vm_tools.concierge.DiskImageType,
            repair=5 bool
        CheckDiskImageResponse: corruptions=1 uint64, leaks=2 uint64, corruptions_fixed=3 uint64,
            leaks_fixed=4 uint64, clusters=5 uint64, allocated_clusters=6 uint64
    """,
    "ttrpc": """
        Request: service=1 string, method=2 string, payload=3 bytes, timeout_nano=4 int64, metadata=5 *KeyValue
        KeyValue: key=1 string, value=2 string
        Response: status=1 Status, payload=2 bytes
        Status: code=1 int32, message=2 string, details=3 *Any
        Any: type_url=1 string, value=2 bytes
    """,
}

# package, service, then methods whose messages are METHODRequest and METHODResponse, or as said
_SERVICES = """
    vm_tools.concierge VmConcierge: StartVm, StopVm, GetVmInfo, CreateDiskImage, DestroyDiskImage
    lodge.v1 Vms: GetServerInfo, ListVms, StopAllVms, WaitVm, WatchEvents WatchEventsRequest VmEvent,
        ReadConsole ReadConsoleRequest ConsoleOutput, AttachConsole ConsoleInput ConsoleOutput, PauseVm, ResumeVm,
        ResizeVmDisk, SetVmLink, GetMetrics, GetMetricsText GetMetricsRequest GetMetricsTextResponse, GetDiskImageInfo,
        ResizeDiskImage, CheckDiskImage
    lodge.v1 Guests: GetGuestFacts GetGuestFactsRequest .lodge.agent.v1.GetFactsResponse,
        MountInGuest MountInGuestRequest .lodge.agent.v1.MountResponse,
        UnmountInGuest UnmountInGuestRequest .lodge.agent.v1.UnmountResponse,
        GrowGuestFilesystem GrowGuestFilesystemRequest .lodge.agent.v1.GrowFilesystemResponse,
        SetGuestTime SetGuestTimeRequest .lodge.agent.v1.SetTimeResponse,
        ListGuestFiles ListGuestFilesRequest .lodge.agent.v1.ListFilesResponse,
        MakeGuestEntry MakeGuestEntryRequest .lodge.agent.v1.MakeEntryResponse,
        ExecInGuest ExecInGuestRequest .lodge.agent.v1.ExecResponse,
        WriteGuestFile WriteGuestFileRequest .lodge.agent.v1.WriteFileResponse,
        ReadGuestFile ReadGuestFileRequest .lodge.agent.v1.ReadFileResponse
"""


def _entries(text):
    """(name, is_enum, [entry]) of each message and enum."""
    for line in text.replace(",\n", ",").splitlines():
        line = line.strip()
        if line:
            cut = min(i for i in (line.find(":"), line.find("|")) if i > 0)
            parts = [p.split() for p in line[cut + 1:].split(",") if p.strip()]
            yield line[:cut], line[cut] == "|", parts


def _file(package, text, imports):
    field = descriptor_pb2.FieldDescriptorProto
    entries = list(_entries(text))
    _enums.update(f".{package}.{name}" for name, is_enum, _ in entries if is_enum)
    file = descriptor_pb2.FileDescriptorProto(name=package + ".py", package=package, syntax="proto3", dependency=imports)
    for name, is_enum, parts in entries:
        if is_enum:
            enum = file.enum_type.add(name=name)
            for (part,) in parts:
                value, number = part.split("=")
                enum.value.add(name=value, number=int(number))
            continue
        message = file.message_type.add(name=name)
        for head, kind in parts:
            fname, number = head.split("=")
            label = field.LABEL_REPEATED if kind[0] == "*" else field.LABEL_OPTIONAL
            kind = kind.lstrip("*")
            f = message.field.add(name=fname, number=int(number), label=label)
            if hasattr(field, "TYPE_" + kind.upper()):
                f.type = getattr(field, "TYPE_" + kind.upper())
            else:
                f.type_name = kind if kind[0] == "." else f".{package}.{kind}"
                f.type = field.TYPE_ENUM if f.type_name in _enums else field.TYPE_MESSAGE
    return file


_enums = set()
_pool = descriptor_pool.DescriptorPool()
for _package, _text in _SCHEMA.items():
    _pool.Add(_file(_package, _text,
                    ["vm_tools.concierge.py", "lodge.agent.v1.py"] if _package == "lodge.v1" else []))


def message(name):
    """The class of a message: message("vm_tools.concierge.VmInfo")."""
    descriptor = _pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(_pool).GetPrototype(descriptor)


def to_json(msg):
    return json_format.MessageToJson(msg, preserving_proto_field_name=True)


def _methods():
    """name -> (service, class of the request, class of the response)"""
    methods = {}
    for line in _SERVICES.replace(",\n", ",").splitlines():
        if line.strip():
            package, service = line.partition(":")[0].split()
            for name, *types in (part.split() for part in line.partition(":")[2].split(",")):
                types = types or (name + "Request", name + "Response")
                methods[name] = (f"{package}.{service}",
                                 *(message(t[1:] if t[0] == "." else f"{package}.{t}") for t in types))
    return methods


METHODS = _methods()


class RpcError(Exception):
    """A call that failed: `code` as in CODES, `text` for people."""

    def __init__(self, code, text):
        super().__init__(f"{CODES.get(code, code)}: {text}")
        self.code = code
        self.text = text


class Lodge:
    """A connection. `timeout`: seconds without a byte until TimeoutError, None for ever; `sock`: one that is
    connected."""

    def __init__(self, path=None, timeout=60, sock=None):
        if sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout)
            path = path or os.environ.get("LODGE_SOCKET") or SOCKET_DEFAULT
            try:
                sock.connect(path)
            except (FileNotFoundError, ConnectionRefusedError) as e:
                sock.close()
                raise type(e)(e.errno, f"lodge serve is not running at {path}") from None
            except OSError:
                sock.close()
                raise
        self.sock = sock
        self._stream = -1
        self._replies = {}
        self._messages = {}
        self._left = set()  # streams whose messages nobody wants any more

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()

    def close(self):
        self.sock.close()

    # ---- frames ----

    def send_frame(self, stream, kind, flags, data):
        self.sock.sendall(struct.pack(">IIBB", len(data), stream, kind, flags) + data)

    def _exactly(self, n):
        data = bytearray()
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        return bytes(data)

    def receive_frame(self):
        """stream, type, flags, data"""
        length, stream, kind, flags = struct.unpack(">IIBB", self._exactly(10))
        return stream, kind, flags, self._exactly(length)

    # ---- calls ----

    def start(self, service, method, payload, timeout_ns=0, flags=0):
        """Sends a call of packed bytes; wait() takes the stream id that it returns."""
        self._stream += 2
        request = message("ttrpc.Request")(service=service, method=method, payload=payload, timeout_nano=timeout_ns)
        self.send_frame(self._stream, REQUEST, flags, request.SerializeToString())
        return self._stream

    def _pump(self):
        """Takes one frame in."""
        got, kind, flags, data = self.receive_frame()
        if got in self._left:
            if kind == RESPONSE or flags & REMOTE_CLOSED:
                self._left.discard(got)
        elif kind == RESPONSE:
            self._replies[got] = message("ttrpc.Response").FromString(data)
        elif kind == DATA:
            if not flags & NO_DATA:
                self._messages.setdefault(got, []).append(data)
            if flags & REMOTE_CLOSED:
                self._replies[got] = message("ttrpc.Response")()

    def wait(self, stream):
        """The packed answer to a call."""
        while stream not in self._replies:
            self._pump()
        response = self._replies.pop(stream)
        if response.status.code:
            raise RpcError(response.status.code, response.status.message)
        return response.payload

    def call(self, method, timeout_ns=0, **fields):
        """A call and its answer."""
        return self.finish(method, self.begin(method, timeout_ns, **fields))

    def begin(self, method, timeout_ns=0, **fields):
        """Starts a call; finish() takes what this returns."""
        service, request, _ = METHODS[method]
        return self.start(service, method, request(**fields).SerializeToString(), timeout_ns)

    def finish(self, method, stream):
        return METHODS[method][2].FromString(self.wait(stream))

    def stream(self, method, timeout_ns=0, **fields):
        """What a method sends, message by message (WatchEvents, ReadConsole), until it ends."""
        return self._received(method, self.begin(method, timeout_ns, **fields))

    def _received(self, method, stream):
        ended = False
        try:
            while True:
                for data in self._messages.pop(stream, []):
                    yield METHODS[method][2].FromString(data)
                if stream in self._messages:
                    continue  # came while other calls were waited for
                if stream in self._replies:
                    ended = True
                    self.wait(stream)
                    return
                self._pump()
        finally:
            self._messages.pop(stream, None)
            if not ended and self._replies.pop(stream, None) is None:
                self._left.add(stream)
                try:  # that nobody listens any more
                    self.send_frame(stream, DATA, GIVEN_UP | REMOTE_CLOSED | NO_DATA, b"")
                except OSError:
                    pass

    def open(self, method):
        """A method with a stream in both directions (AttachConsole): a Duplex."""
        return Duplex(self, method, self.start(METHODS[method][0], method, b"", flags=REMOTE_OPEN))

    # ---- in the guest ----

    def exec(self, name, argv, input=None, timeout=None, **start):
        """Runs a program in the guest of a VM to its end: a Completed. `input`: bytes for its standard input;
        `timeout`: seconds, then it is killed and RpcError says DEADLINE_EXCEEDED; further fields of ExecStart (env,
        cwd, user, ...). RpcError: it could not be started."""
        service = METHODS["ExecInGuest"][0]
        call = Duplex(self, "ExecInGuest", self.start(service, "ExecInGuest", b"", int((timeout or 0) * 1e9), REMOTE_OPEN))
        out, err, exited = bytearray(), bytearray(), None
        call.send(name=name, request={"start": {"argv": argv, "open_stdin": input is not None, **start}})
        pieces = Ahead(input or b"")
        call.feed(name, pieces, lambda data: {"stdin_data": data})
        for m in call:
            out += m.stdout_data
            err += m.stderr_data
            if m.HasField("exited"):
                exited = m.exited
            elif input is not None:
                pieces.ahead -= m.stdin_taken_bytes
                call.feed(name, pieces, lambda data: {"stdin_data": data})
        if exited is None and not start.get("detach"):
            raise ConnectionError("the process's end was not told")
        status = 0 if exited is None else -exited.signal if exited.signal else exited.status
        return Completed(status, bytes(out), bytes(err))

    def write_file(self, name, path, data, mode=0o644, **open):
        """Makes or replaces a file of the guest; further fields of WriteFileOpen."""
        call = self.open("WriteGuestFile")
        call.send(name=name, request={"open": {"path": path, "attributes": {"mode": mode}, **open}})
        pieces = Ahead(data)
        call.feed(name, pieces, lambda data: {"data": data})
        for m in call:
            pieces.ahead -= m.taken_bytes
            call.feed(name, pieces, lambda data: {"data": data})

    def read_file(self, name, path):
        """The bytes of a file of the guest."""
        return b"".join(m.data for m in self.stream("ReadGuestFile", name=name, request={"path": path}))

    def __getattr__(self, name):
        if name.startswith("_") or name not in METHODS:
            raise AttributeError(name)
        return lambda **fields: self.call(name, **fields)


class Completed:
    """How a program in a guest ended: `status` is negative for the signal that ended it."""

    def __init__(self, status, stdout, stderr):
        self.status, self.stdout, self.stderr = status, stdout, stderr

    def __repr__(self):
        return f"Completed(status={self.status}, stdout={self.stdout!r}, stderr={self.stderr!r})"


class Ahead:
    """Bytes to send, and how many of those that were are not taken."""

    def __init__(self, data):
        self.data, self.at, self.ahead, self.ended = data, 0, 0, False


class Duplex:
    """send() messages, and iterate over those that come."""

    def __init__(self, lodge, method, stream):
        self._lodge, self._method, self._id = lodge, method, stream

    def send(self, **fields):
        data = METHODS[self._method][1](**fields).SerializeToString()
        self._lodge.send_frame(self._id, DATA, 0, data)

    def end(self):
        """No more messages."""
        self._lodge.send_frame(self._id, DATA, REMOTE_CLOSED | NO_DATA, b"")

    def feed(self, name, pieces, fields):
        """Sends as much as the window allows, and the end behind the last."""
        while pieces.at < len(pieces.data) and pieces.ahead + PIECE <= WINDOW:
            data = pieces.data[pieces.at:pieces.at + PIECE]
            pieces.at += len(data)
            pieces.ahead += len(data)
            self.send(name=name, request=fields(data))
        if pieces.at == len(pieces.data) and not pieces.ended:
            pieces.ended = True
            self.end()

    def __iter__(self):
        return self._lodge._received(self._method, self._id)
