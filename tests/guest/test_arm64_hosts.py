"""Hosts of 64-bit Arm that lack something, or have more: what works, and what is said.

tests/guest/run starts a host of the lab for each: the first word of a test's name."""
import functools
import os
import subprocess

from harness import LODGE, Skip, check, environment, equal, long, only, test

from test_badinput import refused
from test_boot import no_warnings_in, warnings

MIB = 1 << 20


def host(name):
    """Below @test(): the host that the test is about."""
    def mark(function):
        @functools.wraps(function)
        def run(*arguments, **variants):
            if os.environ.get("LODGE_TEST_HOST") != name:
                raise Skip("not this host: tests/guest/run --arch arm64 arm64_hosts")
            return function(*arguments, **variants)
        return run
    return mark


def works(context, transport, says=None):
    """Four processors, two disks with queues of their own, vsock and random numbers; `says`: what is missing, in one line."""
    disks = [f"path={context.disk(name, 8 * MIB)},format=raw,queues=2" for name in ("first", "second")]
    vm = context.guest("cpus blkio:vda,0,4M,2,40,1 blkio:vdb,0,4M,2,40,1 rng:64 dmesg", "--transport", transport,
                       "--vsock", f"socket={context.path('v')}", cpus=4, disks=disks).ends(0)
    equal(vm.report("cpus"), "4", "processors online")
    no_warnings_in(warnings(vm))
    lines = vm.errors.text().splitlines()
    equal(len(lines), 2 if says else 1, f"lines on standard error: {lines}")
    check(not says or says in lines[0] and "--transport mmio" in lines[0], f"what is missing is not said: {lines[0]!r}")


@test(transport=["pci", "mmio"])
@long(transport=["mmio"])
@only("aarch64", "x86 has no GIC")
@host("gicv2")
def gicv2_machine(context, transport):
    """GICv2 knows no messages: PCI has its wires."""
    works(context, transport, "no GICv3 with an ITS" if transport == "pci" else None)


@test()
@long()
@only("aarch64", "x86 has no GIC")
@host("gicv2")
def gicv2_eight_processors(context):
    """So many does it serve."""
    equal(context.guest("cpus", "--transport", "mmio", cpus=8).ends(0).report("cpus"), "8", "processors online")
    refused(context, [*context.kernel(), "--cpus", "9"], "a GICv2 serves 8 CPUs, not 9: --cpus 8")


@test()
@only("aarch64", "x86 has no GIC")
@host("no_its")
def no_its_machine(context):
    """KVM's ITS needs none of the host's."""
    works(context, "pci")


@test()
@only("aarch64", "it is about EL2")
@host("no_el2")
def no_el2_machine(context):
    """Said in one line, with what works; and that does."""
    line = refused(context, ["--kernel", environment("LODGE_GUEST_KERNEL"), "--initrd", context.artefacts.initrd()], "/dev/kvm")
    check("EL2" in line and "lodge disk" in line, f"neither cause nor cure: {line!r}")
    image = context.path("image")
    subprocess.run([LODGE, "disk", "create", "-f", "qcow2", image, "1G"], check=True, capture_output=True)
    check(os.path.getsize(image) > 0, "no image")


@test()
@only("aarch64", "it is about EL2")
@host("no_el2")
def no_el2_doctor(context):
    """Tells the same, and fails."""
    done = subprocess.run([LODGE, "doctor"], capture_output=True, text=True, check=False)
    equal(done.returncode, 1, f"{done.stdout}{done.stderr}: exit status")
    check("EL2" in done.stdout, done.stdout)


@test()
@only("aarch64", "it is about its vectors")
@host("newest")
def newest_machine(context):
    """Vectors (SVE), signed pointers and counters of the host's are the guest's as well."""
    features = ("sve", "sve2", "paca", "pacg", "atomics")
    flags = " ".join(f"flag:{name}" for name in features)
    vm = context.guest(f"{flags} cpus cat:/sys/bus/event_source/devices/armv8_pmuv3/type dmesg", cpus=2).ends(0)
    equal(vm.reports("flag"), [f"{name} 1" for name in features], "features")
    equal(vm.report("cpus"), "2", "processors online")
    check(vm.report("cat").split()[-1].isdigit(), "no counters")
    no_warnings_in(warnings(vm))
