"""A disk is never written by two."""
from harness import check, equal, test

MIB = 1 << 20


def lodge_refused(context, image, options=""):
    vm = context.guest("hello", disks=[f"path={image},format=raw{options}"])
    status = vm.finish()
    lines = vm.errors.text().splitlines()
    equal((status, len(lines)), (1, 1), f"exit status and lines of {lines}")
    check(image in lines[0], f"the message does not name the disk: {lines[0]!r}")


@test()
def two_writers(context):
    image = context.disk("disk", MIB)
    vm = context.guest("wait:go", disks=[f"path={image},format=raw"])
    vm.wait_for("@ waiting go")
    lodge_refused(context, image)
    lodge_refused(context, image, ",ro=on")
    vm.send("\n")
    vm.ends(0)
    context.guest("hello", disks=[f"path={image},format=raw"]).ends(0)


@test()
def two_readers(context):
    image = context.pattern_disk("disk", MIB)
    vms = [context.guest("wait:go blkverify:vda,0,1M", disks=[f"path={image},format=raw,ro=on"]) for _ in range(2)]
    for vm in vms:
        vm.wait_for("@ waiting go")
    lodge_refused(context, image)
    for vm in vms:
        vm.send("\n")
        vm.ends(0)


@test()
def same_disk_twice(context):
    """Also within one machine."""
    image = context.disk("disk", MIB)
    vm = context.guest("hello", disks=[f"path={image},format=raw", f"path={image},format=raw"])
    status = vm.finish()
    check(status in (1, 2) and len(vm.errors.text().splitlines()) == 1, f"exit status {status}")


@test()
def killed(context):
    """A lock does not outlive its holder."""
    image = context.disk("disk", MIB)
    vm = context.guest("wait:go", disks=[f"path={image},format=raw"])
    vm.wait_for("@ waiting go")
    vm.process.kill()
    vm.finish()
    context.guest("hello", disks=[f"path={image},format=raw"]).ends(0)
