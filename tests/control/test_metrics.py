"""GetMetrics and GetMetricsText, the latter read by a parser of the format of its own."""

import re

from rig import expect_rpc_error, need_kvm
from test_console import Reader, attached

KINDS = ["vmm"]

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\} (\S+)')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
UNESCAPE = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}


def unescaped(text):
    return re.sub(r'\\["\\n]', lambda m: UNESCAPE[m[0]], text)


def parse(text):
    """{family: (type, {(suffix, labels): value})}; what the format forbids fails."""
    assert text.endswith("\n")
    families, family = {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, family, help_text = line.split(" ", 3)
            assert family not in families and help_text, f"{family} stands in two places"
            families[family] = [None, {}]
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family and families[name][0] is None and not families[name][1]
            assert kind in ("counter", "gauge", "histogram")
            families[name][0] = kind
        else:
            m = SAMPLE.fullmatch(line)
            assert m, f"no sample: {line}"
            assert m[1].startswith(family), f"{m[1]} among the samples of {family}"
            suffix = m[1][len(family):]
            kind = families[family][0]
            assert suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",)), line
            labels = tuple((k, unescaped(v)) for k, v in LABEL.findall(m[2]))
            assert len(dict(labels)) == len(labels) and (suffix, labels) not in families[family][1], line
            families[family][1][suffix, labels] = float(m[3])
    for name, (kind, samples) in families.items():
        assert kind, name
        assert all(v >= 0 for v in samples.values())
        if kind == "histogram":
            check_histogram(samples)
    return families


def check_histogram(samples):
    series = {}
    for (suffix, labels), value in samples.items():
        base = tuple(x for x in labels if x[0] != "le")
        s = series.setdefault(base, {"buckets": []})
        if suffix == "_bucket":
            s["buckets"].append((float(dict(labels)["le"]), value))
        else:
            s[suffix] = value
    for s in series.values():
        buckets = s["buckets"]
        assert buckets == sorted(buckets) and [v for _, v in buckets] == sorted(v for _, v in buckets), buckets
        assert buckets[-1] == (float("inf"), s["_count"])
        assert s["_sum"] >= 0


def value(families, name, **labels):
    for (suffix, have), v in families[name][1].items():
        if not suffix and all(dict(have).get(k) == want for k, want in labels.items()):
            return v
    raise AssertionError(f"no {name} {labels}")


def test_none(server):
    with server.client() as c:
        assert not c.GetMetrics().vms
        assert not any(samples for _, samples in parse(c.GetMetricsText().text).values())
        for method in ("GetMetrics", "GetMetricsText"):
            expect_rpc_error("NOT_FOUND", c.call, method, name="a")


def test_of_a_vm(server):
    need_kvm()
    name = 'a "quoted\\" {name}, é'
    with server.client() as c, server.client() as d:
        info = server.start(c, name, "echo", cpus=2)
        duplex = d.open("AttachConsole")
        duplex.send(open=dict(name=name))
        a = Reader(duplex).until(b"echo\n")
        duplex.send(data=b"hello\n")
        a.until(b"hello\n")
        (vm,) = c.GetMetrics().vms
        assert (vm.name, vm.pid, vm.memory_bytes) == (name, info.pid, 64 << 20)
        assert vm.uptime_ns > 0 and vm.cpu_time_ns > 0 and 100 << 10 < vm.resident_bytes < 512 << 20
        assert (vm.console.out_bytes, vm.console.in_bytes) == (11, 6)
        exits = {e.reason: e.count for e in vm.vcpus[0].exits}
        assert len(vm.vcpus) == 2 and exits["io"] > 11 and vm.vcpus[0].cpu_time_ns > 0
        assert [x.device for x in vm.disks] == ["vda"] and vm.disks[0].path == server.rootfs
        assert vm.disks[0].read.operations == 0 and len(vm.disks[0].read.latency) == 24

        text = parse(c.GetMetricsText(name=name).text)
        assert value(text, "lodge_vm_memory_bytes", vm=name) == 64 << 20
        assert value(text, "lodge_vm_console_bytes_total", vm=name, direction="out") == 11
        assert value(text, "lodge_vm_vcpu_exits_total", vm=name, vcpu="0", reason="io") >= exits["io"]
        assert value(text, "lodge_vm_cpu_seconds_total") >= vm.cpu_time_ns / 1e9
        assert c.StopVm(name=name, force=True).success


def test_of_a_disk(server):
    """The guest says how many requests it has made."""
    need_kvm()
    with server.client() as c, server.client() as d:
        vm = dict(command_line="blk=randread+seqread,100 tsc=2000000")
        info = server.start(c, "a", "blk", vm=vm, transport=1)
        a = Reader(d.stream("ReadConsole", name="a")).until(b"io randread ")
        (m,) = c.GetMetrics(name="a").vms
        read = m.disks[0].read
        assert read.operations >= 1000 and read.bytes >= read.operations * 4096, read
        assert sum(read.latency) == read.operations and not read.errors and read.latency_sum_ns > 0
        text = parse(c.GetMetricsText().text)
        done = value(text, "lodge_vm_block_operations_total", device="vda", operation="read")
        assert done >= read.operations
        assert value(text, "lodge_vm_block_operations_total", device="vda", operation="write") == 0
        a.rest()
        assert info.pid


def test_of_a_disk_with_limits(server):
    """Requests come one after the other at a rate that no disk is as slow as; a tenth of a second's may come at once."""
    need_kvm()
    with server.client() as c, server.client() as d:
        vm = dict(command_line="blk=randread+seqread,400 tsc=2000000", rootfs_ops_per_s=100)
        server.start(c, "a", "blk", vm=vm, transport=1)
        Reader(d.stream("ReadConsole", name="a")).until(b"io randread ")
        (m,) = c.GetMetrics(name="a").vms
        assert m.disks[0].read.operations <= 10 + 100 * m.uptime_ns / 1e9 + 1, (m.disks[0].read.operations, m.uptime_ns)
