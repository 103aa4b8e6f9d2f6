-- Handing a lock on. Put behind queue.lua and in front of the scripts of a lock.

-- Give a lock that is free, or ours to give, to the first waiter who listens; return its claim in ms, or nil. Those ahead
-- of `before` (a place) only, if one is given.
local function hand_on(lock, counter, queue, keep, before)
  local last
  local function offer(waiter, now)
    last = last or last_token(counter)
    if not last then
      return nil
    end
    return math.max(last + 1, now), '-', function(token)
      redis.call('SET', counter, digits(token), 'PX', keep)
      redis.call('SET', lock, waiter.holder, 'PX', waiter.claim)
    end, true
  end
  return serve(queue, offer, before)
end

