"""Shutdown: processes ended, file systems clean, the guest gone."""

import subprocess
import time

from rig import DEADLINE_S, pb, until

# unshare(1) ends as its child did: reboot(2) ends a PID namespace by SIGINT for power-off, SIGHUP for a reboot
POWEROFF, REBOOT = (-2, 130), (-1, 129)


def with_disk(guest):
    """A client, a mounted disk with a file that is open and not synced; its image."""
    device, file = guest.disk()
    c = guest.client()
    c.Mount(source=device, target="/mnt/data", fstype="ext4", mkfs_if_blank=True)
    c.exec("sh", "-c", "trap '' TERM; echo data > /mnt/data/f; exec 5>>/mnt/data/f; while :; do sleep 1; done",
           detach=True)
    until("the file is there", lambda: c.sh("cat /mnt/data/f").out == b"data\n")
    return c, file


def is_clean(file):
    """Not even a journal is to be replayed."""
    out = subprocess.run(["dumpe2fs", "-h", file], capture_output=True, text=True).stdout
    assert "needs_recovery" not in out and "clean" in out, out
    assert subprocess.run(["e2fsck", "-fn", file], capture_output=True).returncode == 0


def ends(guest, how, **request):
    c, file = with_disk(guest)
    c.Shutdown(**request)  # the answer comes first
    assert guest.wait() in how, guest.process.returncode
    is_clean(file)


def test_agent_as_init_powers_off(guest):
    ends(guest, POWEROFF)


def test_agent_as_init_reboots(guest):
    ends(guest, REBOOT, reboot=True)


def test_beside_a_shell_as_init(guest):
    ends(guest, POWEROFF)


test_agent_as_init_powers_off.init = test_agent_as_init_reboots.init = "agent"
test_beside_a_shell_as_init.init = "shell"


def test_init_is_asked(guest):
    c = guest.client()
    c.Shutdown()
    assert guest.wait() in POWEROFF, guest.process.returncode
    assert (guest.dir / "init-shutdown").exists()


def test_init_is_asked_to_reboot(guest):
    c = guest.client()
    c.Shutdown(reboot=True)
    assert guest.wait() in REBOOT, guest.process.returncode
    assert (guest.dir / "init-shutdown").exists()


def test_init_that_does_not_listen_yet(guest):
    """It is asked when it does: nothing else may leave its file systems clean."""
    c = guest.client()
    c.Shutdown()
    time.sleep(2)
    assert guest.process.poll() is None, guest.process.returncode
    (guest.dir / "go").touch()
    assert guest.wait() in POWEROFF, guest.process.returncode
    assert (guest.dir / "init-shutdown").exists()


test_init_that_does_not_listen_yet.init = "late"


def test_by_force_init_is_not_asked(guest):
    c, file = with_disk(guest)
    c.Shutdown(force=True)
    assert guest.wait() in POWEROFF, guest.process.returncode
    assert not (guest.dir / "init-shutdown").exists()
    is_clean(file)


def test_who_does_not_read_its_answer_does_not_stop_it(guest):
    c = guest.client()
    for _ in range(50):
        c.begin("GetFacts")
    c.begin("Shutdown", force=True)
    assert guest.wait() in POWEROFF, guest.process.returncode


def test_a_start_whose_agent_is_killed(guest):
    """What it had started stays; its connection ends."""
    c = guest.client()
    c.exec("sleep", "1999", detach=True)
    pid = int(c.sh("echo $PPID").out)
    try:
        c.exec("kill", "-9", str(pid))
        raise AssertionError("the connection stays")
    except (ConnectionError, OSError):
        pass
