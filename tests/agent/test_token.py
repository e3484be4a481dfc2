"""An agent with a token serves only who tells it."""

from rig import expect

TOKEN = "0123456789abcdef0123456789abcdef"


def test_nothing_without_it(guest):
    c = guest.client()
    expect("PERMISSION_DENIED", "Authenticate", c.GetFacts)
    expect("PERMISSION_DENIED", "Authenticate", c.Shutdown, force=True)
    expect("PERMISSION_DENIED", "Authenticate", lambda: c.exec("true"))
    for wrong in ("", TOKEN[:-1], TOKEN + "0", TOKEN[:-1] + "0", "x" * 100000):
        expect("PERMISSION_DENIED", "not that of this agent", c.Authenticate, token=wrong)
    expect("PERMISSION_DENIED", "Authenticate", c.GetFacts)


def test_each_connection_tells_it(guest):
    c = guest.client()
    c.Authenticate(token=TOKEN)
    assert c.GetFacts().hostname == "guest"
    assert c.exec("true").status == 0
    expect("PERMISSION_DENIED", "Authenticate", guest.client().GetFacts)


def test_programs_do_not_see_it(guest):
    c = guest.client()
    c.Authenticate(token=TOKEN)
    assert TOKEN.encode() not in c.exec("env").out
    agent = c.sh("cat /proc/$PPID/environ; cat /proc/$PPID/cmdline")
    assert agent.status == 0 and TOKEN.encode() not in agent.out, agent.out


for _test in (test_nothing_without_it, test_each_connection_tells_it, test_programs_do_not_see_it):
    _test.token = TOKEN
