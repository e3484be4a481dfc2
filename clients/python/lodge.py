"""Client of lodge's control socket: one file over the stock protobuf runtime (python3-protobuf).

    from lodge import Lodge
    with Lodge("/run/lodge.sock") as lodge:
        reply = lodge.StartVm(name="a", vm={"kernel": "/boot/vmlinuz", "rootfs": "/srv/root.img"})
        if not reply.success:
            raise SystemExit(reply.failure_reason)
        lodge.StopVm(name="a")

Each method of the services is a method here: fields as keyword arguments in, the response message
out. RpcError: the call itself failed (a ttrpc status). One thread at a time; a call waits for its
answer. Calls at the same time: start() and wait().
"""

import socket
import struct

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

DATA_MAX = 4 << 20
REQUEST, RESPONSE, DATA = 1, 2, 3
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
            no_initramfs=106 bool, modules_dir=107 string, init=108 string
        DiskImageType| DISK_IMAGE_RAW=0, DISK_IMAGE_QCOW2=1
        DiskImage: path=1 string, mount_point=2 string, fstype=3 string, flags=4 uint64, data=5 string,
            writable=6 bool, do_mount=7 bool, image_type=8 DiskImageType, direct=100 bool, serial=101 string
        VmState| VM_STATE_UNKNOWN=0, VM_STATE_STARTING=1, VM_STATE_RUNNING=2, VM_STATE_STOPPING=3
        VmInfo: ipv4_address=1 fixed32, pid=2 int32, cid=3 int64, state=100 VmState, name=101 string, cpus=102 uint32,
            memory_bytes=103 uint64, disk_paths=104 *string
        VmTransport| VM_TRANSPORT_PCI=0, VM_TRANSPORT_MMIO=1
        StartVmRequest: vm=1 VirtualMachineSpec, disks=2 *DiskImage, shared_directory=3 string, name=4 string,
            start_termina=5 bool, cpus=100 uint32, memory_bytes=101 uint64, transport=102 VmTransport
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
    "lodge.v1": """
        ListVmsRequest:
        ListVmsResponse: vms=1 *.vm_tools.concierge.VmInfo
        StopAllVmsRequest:
        StopAllVmsResponse:
    """,
    "ttrpc": """
        Request: service=1 string, method=2 string, payload=3 bytes, timeout_nano=4 int64, metadata=5 *KeyValue
        KeyValue: key=1 string, value=2 string
        Response: status=1 Status, payload=2 bytes
        Status: code=1 int32, message=2 string, details=3 *Any
        Any: type_url=1 string, value=2 bytes
    """,
}

_SERVICES = {
    "vm_tools.concierge.VmConcierge": ("vm_tools.concierge", ["StartVm", "StopVm", "GetVmInfo", "CreateDiskImage",
                                                              "DestroyDiskImage"]),
    "lodge.v1.Vms": ("lodge.v1", ["ListVms", "StopAllVms"]),
}


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
    enums = {name for name, is_enum, _ in entries if is_enum}
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
                f.type = field.TYPE_ENUM if kind in enums else field.TYPE_MESSAGE
                f.type_name = kind if kind[0] == "." else f".{package}.{kind}"
    return file


_pool = descriptor_pool.DescriptorPool()
for _package, _text in _SCHEMA.items():
    _pool.Add(_file(_package, _text, ["vm_tools.concierge.py"] if _package == "lodge.v1" else []))


def message(name):
    """The class of a message: message("vm_tools.concierge.VmInfo")."""
    descriptor = _pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(_pool).GetPrototype(descriptor)


def to_json(msg):
    return json_format.MessageToJson(msg, preserving_proto_field_name=True)


class RpcError(Exception):
    def __init__(self, code, text):
        super().__init__(f"{CODES.get(code, code)}: {text}")
        self.code = code
        self.text = text


class Lodge:
    def __init__(self, path=None, timeout=60, sock=None):
        if sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout)
            sock.connect(path)
        self.sock = sock
        self._stream = -1
        self._replies = {}
        self._methods = {m: (service, package) for service, (package, ms) in _SERVICES.items() for m in ms}

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
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        return data

    def receive_frame(self):
        """stream, type, flags, data"""
        length, stream, kind, flags = struct.unpack(">IIBB", self._exactly(10))
        return stream, kind, flags, self._exactly(length)

    # ---- calls ----

    def start(self, service, method, payload, timeout_ns=0):
        """Sends a call of packed bytes; wait() takes the stream id that it returns."""
        self._stream += 2
        request = message("ttrpc.Request")(service=service, method=method, payload=payload, timeout_nano=timeout_ns)
        self.send_frame(self._stream, REQUEST, 0, request.SerializeToString())
        return self._stream

    def wait(self, stream):
        """The packed answer to a call."""
        while stream not in self._replies:
            got, kind, _, data = self.receive_frame()
            if kind == RESPONSE:
                self._replies[got] = message("ttrpc.Response").FromString(data)
        response = self._replies.pop(stream)
        if response.status.code:
            raise RpcError(response.status.code, response.status.message)
        return response.payload

    def call(self, method, timeout_ns=0, **fields):
        return self.finish(method, self.begin(method, timeout_ns, **fields))

    def begin(self, method, timeout_ns=0, **fields):
        service, package = self._methods[method]
        request = message(f"{package}.{method}Request")(**fields)
        return self.start(service, method, request.SerializeToString(), timeout_ns)

    def finish(self, method, stream):
        _, package = self._methods[method]
        return message(f"{package}.{method}Response").FromString(self.wait(stream))

    def __getattr__(self, name):
        if name.startswith("_") or name not in self._methods:
            raise AttributeError(name)
        return lambda **fields: self.call(name, **fields)
