-- Handing a lock on. Put behind queue.lua and in front of the scripts of a lock.

-- Give a lock that is free, or ours to give, to the first waiter who listens; return its claim in ms, or nil. Those ahead
-- of `before` (a place) only, if one is given. A waiter that nobody hears for is gone, and passed over.
local function hand_on(lock, counter, queue, keep, before)
  local last
  while true do
    local entry, place = head_of(queue)
    if not entry or (before and place >= before) then
      return nil
    end
    last = last or last_token(counter)
    if not last then
      return nil
    end
    redis.call('ZREM', queue, entry) -- a write first: a replica must not tell anybody anything
    local waiter, now = parsed(entry), micros()
    local token = math.max(last + 1, now)
    local heard = tell(waiter, table.concat({'grant', digits(token), digits(now), '-'}, ' '))
    if heard < 0 then
      redis.call('ZADD', queue, digits(place), entry) -- it keeps its place, and asks by itself
      return nil
    end
    if heard > 0 then
      mint(counter, last, now, keep)
      redis.call('SET', lock, waiter.holder, 'PX', waiter.claim)
      tell_next(queue, waiter.claim)
      return tonumber(waiter.claim)
    end
  end
end

