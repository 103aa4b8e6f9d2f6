"""A KazooClient that was started before a fork is refused in the child, by every verb; kazoo hangs there (K26)."""

from __future__ import annotations

import json
from typing import Any

import pytest

TEXT = """
from zookeeper_verbs import everything, verbs
from coordkit.errors import CoordError

things = {**everything(flavour, zk, path), "Guardian": flavour.Guardian(zk)}

async def outcome(call):
    began = time.monotonic()
    try:
        said = repr(await flavour.maybe(call()))
    except Exception as error:
        said = f"{type(error).__mro__[-4 if isinstance(error, CoordError) else 0].__name__}: {error}"
    return said, time.monotonic() - began

async def all_of_them():
    found = {}
    for called, thing in things.items():
        for name, call in verbs(flavour, thing, called).items():
            found[name] = await outcome(call)
    async with flavour.within(flavour.SessionScope(zk)):
        pass  # leaving it leaves the parent's client alone
    return found

def in_child(work):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        found = []
        async def main():
            found.append(await work())
        flavour.run(main())
        say(json.dumps(found[0]))
    except BaseException as error:
        say(json.dumps({"failed": [repr(error), 0.0]}))
    finally:
        os._exit(0)
"""

BEFORE = (
    TEXT
    + """
in_child(all_of_them)

async def works():
    for name in ("Lock", "ReadWriteLock.read", "ReadWriteLock.write", "Semaphore", "DoubleBarrier"):
        async with flavour.within(things[name]):
            pass
    await flavour.maybe(things["Barrier"].wait())
    async with flavour.within(things["Election"]) as leadership:
        await flavour.maybe(leadership.verify())
        say("works")

flavour.run(works())
"""
)

HELD = (
    TEXT
    + """
def held():
    from contextlib import ExitStack

    held, there, over = {}, threading.Barrier(3), threading.Event()

    def keep(given):
        held[type(given).__name__] = given
        there.wait(60)
        over.wait()

    roles = flavour.Roles(zk, f"{path}/roles", identity="one", on_primary=keep)
    share = flavour.Group(zk, f"{path}/other").share("one", ["a"])
    sides = [threading.Thread(target=roles.run), threading.Thread(target=share.run, args=(keep,))]
    for side in sides:
        side.start()
    there.wait(60)

    with ExitStack() as stack:
        for name in ("Election", "Lock", "ReadWriteLock.read", "Semaphore", "DoubleBarrier"):
            held[name] = stack.enter_context(things[name])
        member = held["Member"] = stack.enter_context(things["Group"].join("one"))
        changes = stack.enter_context(things["Group"].watch())
        next(changes)

        async def of_what_is_held():
            calls = {"next": lambda: next(changes)}
            for called, thing in held.items():
                calls |= verbs(flavour, thing, called)
            return {name: await outcome(call) for name, call in calls.items()}

        in_child(of_what_is_held)
        for name, thing in held.items():
            if hasattr(thing, "ensure"):
                thing.ensure()
        held["Primary"].verify()
        held["Lock"].renew()
        held["Election"].verify()
        member.update(b"2")
    over.set()
    share.stop()
    for side in sides:
        side.join()
    say("works")

held()
"""
)


def refused(found: dict[str, Any], least: int) -> None:
    assert len(found) >= least
    assert {name: said for name, (said, _) in found.items() if not said.startswith("CoordError")} == {}
    assert {name: said for name, (said, _) in found.items() if "fork" not in said and "parent" not in said} == {}
    assert {name: seconds for name, (_, seconds) in found.items() if seconds > 5} == {}


async def test_every_verb_is_refused_in_a_forked_child(flavour: Any, program: Any) -> None:
    running = program(BEFORE)
    refused(json.loads(running.line()), least=43)
    assert running.line() == "works", "the parent's client works on"
    assert running.ended()[0] == 0


@pytest.mark.parametrize("flavour", ["blocking"], indirect=True)  # a loop that runs cannot be forked
def test_what_the_parent_holds_is_not_the_childs(flavour: Any, program: Any) -> None:
    running = program(HELD)
    found = json.loads(running.line())
    released = {name: found.pop(name)[0] for name in list(found) if name.endswith(".release")}
    assert released == dict.fromkeys(released, "False")  # as it says
    assert len(released) == 3
    refused(found, least=20)
    assert running.line() == "works"
    assert running.ended()[0] == 0
