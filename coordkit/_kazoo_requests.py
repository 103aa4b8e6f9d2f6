"""Our requests in kazoo's words, and its answers in ours; container znodes, which it does not have."""

from __future__ import annotations

from typing import Any

from kazoo.exceptions import (
    AuthFailedError,
    BadVersionError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    OperationTimeoutError,
    QuotaExceededError,
    RolledBackError,
    RuntimeInconsistency,
    UnimplementedError,
    ZookeeperError,
)
from kazoo.protocol import serialization
from kazoo.protocol.paths import _prefix_root
from kazoo.protocol.states import ZnodeStat
from kazoo.security import OPEN_ACL_UNSAFE

from coordkit._kazoo_answers import Answer
from coordkit._kazoo_sending import Sending
from coordkit._kazoo_trees import Trees
from coordkit._kazoo_watches import Bells, Deliver
from coordkit._ports_zookeeper import (
    BadVersion,
    Check,
    Create,
    Delete,
    GetChildren,
    GetData,
    GetStat,
    Kind,
    Multi,
    NodeExists,
    NoNode,
    NotEmpty,
    OverQuota,
    Request,
    SetData,
    Stat,
    Sync,
    WatchTree,
)
from coordkit.core.session import REFUSED
from coordkit.errors import StoreRefused, StoreUnavailable

_NO_ANSWER = frozenset({-1, -2, -3, -4, -7, -12, -112, -118, -119, -122, -127})
"""Error codes after which the outcome is unknown or the request may be sent again: the connection or the session was
lost or moved, a time ran out, a server failed inside, it throttled us, or it is cut off from the others and reads only.
"""


class CreateContainer(serialization.Create2):  # type: ignore[misc]  # kazoo ships no types
    """Create a znode that the servers remove once it is empty (kazoo#334 asks for it since 2015)."""

    type = 19


def submit(sending: Sending, bells: Bells, trees: Trees, request: Request, deliver: Deliver) -> Answer:
    """Put ``request`` down to be sent; return its answer. ``deliver`` carries a watch to where it runs."""
    if isinstance(request, WatchTree):
        return trees.hang(request, deliver)
    answer = Answer(sending.send)
    sending.put(_operation(sending.client, bells, request, deliver), answer)
    return answer


def _operation(client: Any, bells: Bells, request: Request, deliver: Deliver) -> Any:
    """Return ``request`` as kazoo writes it to a server."""
    if isinstance(request, Multi):
        return serialization.Transaction([_step(client, step) for step in request.steps])
    path = at(client, request.path)
    if isinstance(request, GetData | GetStat):
        look = serialization.GetData if isinstance(request, GetData) else serialization.Exists
        return look(path, bells.hang(request, deliver))
    if isinstance(request, GetChildren):
        listing = serialization.GetChildren2 if request.with_stat else serialization.GetChildren
        return listing(path, bells.hang(request, deliver))
    if isinstance(request, Create):
        operation = CreateContainer if request.kind is Kind.CONTAINER else serialization.Create2
        return operation(path, request.data, _acl(client), request.kind.value)
    if isinstance(request, SetData | Delete):
        return _step(client, request)
    return serialization.Sync(path)


def _step(client: Any, step: Create | Delete | SetData | Check) -> Any:
    """Return what may be part of a transaction as kazoo writes it."""
    path = at(client, step.path)
    if isinstance(step, Check):
        return serialization.CheckVersion(path, step.version)
    if isinstance(step, SetData):
        return serialization.SetData(path, step.data, step.version)
    if isinstance(step, Delete):
        return serialization.Delete(path, step.version)
    return serialization.Create(path, step.data, _acl(client), int(step.kind is Kind.EPHEMERAL))


def _acl(client: Any) -> Any:
    return client.default_acl or OPEN_ACL_UNSAFE


def at(client: Any, path: str) -> str:
    """Return the path as the servers know it."""
    below: str = _prefix_root(client.chroot, path) if client.chroot else path
    return below


def answer(where: object, name: str, request: Request, result: Any, within: float) -> Any:
    """Return what ``result`` holds in coordkit's words; an error is returned, not raised."""
    if not result.ready():
        error = StoreUnavailable(name, f"no answer from {where} within {within:.1f} s")
        error.__cause__ = OperationTimeoutError()
        return error
    problem, at = result.exception, 0
    if problem is None and not _fits(request, result.value):
        return StoreUnavailable(name, f"{where} answered something else than was asked: {result.value!r}")
    path = request.steps[0].path if isinstance(request, Multi) else request.path
    if problem is None and isinstance(request, Multi):
        # A failed transaction is returned, not raised (kazoo#222): one step has the reason, the others echo it.
        for step, outcome in enumerate(result.value):
            if isinstance(outcome, Exception) and not isinstance(outcome, RolledBackError | RuntimeInconsistency):
                problem, path, at = outcome, request.steps[step].path, step
                break
    if isinstance(problem, UnimplementedError) and isinstance(request, WatchTree):
        return False
    if problem is not None:
        return _problem(where, name, path, problem, at)
    return _in_our_words(request, result.value)


def _problem(where: object, name: str, path: str, problem: Exception, step: int) -> Exception:
    error: Exception
    for theirs, ours in _EXPECTED.items():
        if isinstance(problem, theirs):
            error = ours(path, step)
            error.__cause__ = problem
            return error
    said = str(problem) or type(problem).__name__
    if not isinstance(problem, ZookeeperError):
        error = StoreUnavailable(name, f"{where} was not asked, or did not answer: {said}")
    elif getattr(problem, "code", None) in _NO_ANSWER:
        error = StoreUnavailable(name, f"no answer from {where}: {said}")
    elif isinstance(problem, QuotaExceededError):
        error = OverQuota(name, f"{where}: a quota allows no more at {path}; raise it, or have others leave")
    elif isinstance(problem, AuthFailedError):
        error = StoreRefused(name, f"{where}: {REFUSED}")
    else:
        error = StoreRefused(name, f"{where} refused at {path}: {said}; check its ACLs and authentication")
    error.__cause__ = problem
    return error


_EXPECTED = {
    NoNodeError: NoNode,
    NodeExistsError: NodeExists,
    BadVersionError: BadVersion,
    NotEmptyError: NotEmpty,
}


_ANSWERS: dict[type, Any] = {
    GetData: tuple,
    GetStat: (ZnodeStat, type(None)),
    Create: tuple,
    SetData: ZnodeStat,
    Delete: bool,
    Sync: str,
    WatchTree: bool,
}
"""What kazoo makes of the answer to a request of which all answers are alike."""


def _fits(request: Request, value: Any) -> bool:
    """Return whether ``value`` is an answer to ``request``, and not to another."""
    if isinstance(request, Multi):
        return isinstance(value, list) and len(value) == len(request.steps)
    if isinstance(request, GetChildren):
        return isinstance(value, tuple if request.with_stat else list)
    return isinstance(value, _ANSWERS[type(request)])


def _stat(stat: Any) -> Stat:
    more = stat.ctime / 1000, stat.pzxid, stat.dataLength
    return Stat(stat.czxid, stat.mzxid, stat.version, stat.ephemeralOwner, *more)


def _in_our_words(request: Request, value: Any) -> Any:
    if isinstance(request, GetData):
        return value[0] or b"", _stat(value[1])
    if isinstance(request, Create):
        parent, name = request.path.rpartition("/")[0], value[0].rpartition("/")[2]
        return f"{parent}/{name}", _stat(value[1])  # a chroot is none of ours
    if isinstance(request, GetChildren) and request.with_stat:
        return value[0], _stat(value[1])
    if isinstance(request, SetData | GetStat):
        return None if value is None else _stat(value)
    if isinstance(request, Multi):
        return [
            _stat(each) if isinstance(step, SetData) else each for step, each in zip(request.steps, value, strict=True)
        ]
    return value
