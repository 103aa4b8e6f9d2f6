"""The resource that W1 races for: a server of its own counts who is inside, in one script a step, and logs who should
not be. It knows nothing of leases: what it sees is so.
"""

from __future__ import annotations

from typing import Any

from regime.flavours import maybe

_KEYS = ("inside", "together", "wrong")
_ENTER = """
local what = ARGV[1] -- 'r' reads beside others who do, 's' has a slot of so many, 'w' is alone
redis.call('HINCRBY', KEYS[1], ARGV[2], 1)
local inside, all, here = {}, 0, redis.call('HGETALL', KEYS[1])
for i = 1, #here, 2 do
  if here[i + 1] ~= '0' then
    all = all + here[i + 1]
    inside[#inside + 1] = here[i] .. ' ' .. here[i + 1] .. ' times'
  end
end
local mine = tonumber(redis.call('HGET', KEYS[1], ARGV[2]))
local right = all == 1
if what == 'r' then
  right = all == mine
elseif what == 's' then
  right = mine == 1 and all <= tonumber(ARGV[3])
end
if not right then
  redis.call('RPUSH', KEYS[3], ARGV[4] .. ' entered, and there were ' .. table.concat(inside, ', '))
end
if all > tonumber(redis.call('GET', KEYS[2]) or '0') then
  redis.call('SET', KEYS[2], all)
end
"""


def _keys(name: str) -> list[str]:
    return [f"turnstile:{name}:{key}" for key in _KEYS]


def place_of(lease: Any) -> tuple[str, str]:
    """Return how a lease goes in: what it is, and which place it takes."""
    if lease.slot is not None:
        return "s", f"slot {lease.slot}"
    return ("w", "alone") if lease.token.holder == lease.holder else ("r", "reading")


async def enter(client: Any, lease: Any, at_once: int, who: str) -> None:
    await maybe(client.eval(_ENTER, len(_KEYS), *_keys(lease.name), *place_of(lease), at_once, who))


async def leave(client: Any, lease: Any) -> None:
    await maybe(client.hincrby(_keys(lease.name)[0], place_of(lease)[1], -1))


def wrong(client: Any, names: tuple[str, ...]) -> list[str]:
    """Return who was inside and should not have been."""
    return [f"turnstile: {line.decode()}" for name in names for line in client.lrange(_keys(name)[2], 0, -1)]


def together(client: Any, names: tuple[str, ...]) -> int:
    """Return how many were inside at once, at most."""
    return max(int(client.get(_keys(name)[1]) or 0) for name in names)
