"""A KazooClient that was started before a fork is refused in the child, by every verb; kazoo hangs there (K26)."""

from __future__ import annotations

import json
from typing import Any

import pytest

TEXT = """
from zookeeper_verbs import verbs
from coordkit.errors import CoordError

things = [
    flavour.Election(zk, path, identity="one"),
    flavour.Group(zk, f"{path}/group"),
    flavour.Guardian(zk),
]

async def outcome(call):
    began = time.monotonic()
    try:
        said = repr(await flavour.maybe(call()))
    except Exception as error:
        said = f"{type(error).__mro__[-4 if isinstance(error, CoordError) else 0].__name__}: {error}"
    return said, time.monotonic() - began

async def all_of_them():
    found = {}
    for thing in things:
        for name, call in verbs(flavour, thing).items():
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
    async with flavour.within(things[0]) as leadership:
        await flavour.maybe(leadership.verify())
        say("leads")

flavour.run(works())
"""
)

HELD = (
    TEXT
    + """
def held():
    with things[0] as leadership, things[1].join("one") as member, things[1].watch() as changes:
        next(changes)

        async def of_what_is_held():
            calls = {**verbs(flavour, leadership), **verbs(flavour, member), "next": lambda: next(changes)}
            for quiet in ("Leadership.remaining",):
                calls.pop(quiet, None)
            return {name: await outcome(call) for name, call in calls.items()}

        in_child(of_what_is_held)
        leadership.verify()
        member.update(b"2")
        say("leads")

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
    refused(json.loads(running.line()), least=9)
    assert running.line() == "leads", "the parent's client works on"
    assert running.ended()[0] == 0


@pytest.mark.parametrize("flavour", ["blocking"], indirect=True)  # a loop that runs cannot be forked
def test_what_the_parent_holds_is_not_the_childs(flavour: Any, program: Any) -> None:
    running = program(HELD)
    refused(json.loads(running.line()), least=5)
    assert running.line() == "leads"
    assert running.ended()[0] == 0
