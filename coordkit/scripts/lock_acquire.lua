-- Grant a lock to a holder, with a fencing token; or say who is ahead, and queue up.
-- KEYS[1]  the lock: its value is the present holder
-- KEYS[2]  the last token that was given out for this name     KEYS[3]  the queue
-- ARGV[1]  the holder who asks        ARGV[2]  ttl in ms        ARGV[3]  how long an idle counter is kept, in ms
-- ARGV[4]  its entry in the queue, if it waits                  ARGV[5]  its place, or '' if it has none yet
-- returns  {1, token}                 granted; asked again by the present holder: the same token, and the ttl anew
--          {0, holder, ms left}       refused
--          {0, holder, ms left, server time in us, place, number ahead, 1 or 0: somebody listens}   refused, and queued
-- Asked twice it does what asking once does: each acquisition has a holder id of its own.

-- Behind lock_acquire_free.lua, which knows the `last` token, whether that is `usable`, and has `taken` the lock if
-- nobody had it.

if not usable then
  local _, broken = last_token(KEYS[2])
  return broken
end
local waits = (ARGV[4] or '') ~= ''
if taken then
  local could, claim = pcall(function()
    local place = waits and (tonumber(ARGV[5]) or tonumber(redis.call('ZSCORE', KEYS[3], ARGV[4]))) or nil
    return hand_on(KEYS[1], KEYS[2], KEYS[3], ARGV[3], place)
  end)
  if not could then
    -- The queue is no queue, or the user may not use it: a no must not keep everybody out for a ttl.
    if redis.call('GET', KEYS[1]) == ARGV[1] then
      redis.call('DEL', KEYS[1])
    end
    return type(claim) == 'table' and claim or redis.error_reply(claim)
  end
  local free = not claim
  if free then
    if waits then
      leave(KEYS[3], ARGV[4], ARGV[5])
    end
    return {1, mint(KEYS[2], last, micros(), ARGV[3])}
  end
end
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  if waits then
    leave(KEYS[3], ARGV[4], ARGV[5])
  end
  last = last_token(KEYS[2]) -- it may just have been handed on to us
  if last > 0 then
    return {1, digits(last)}
  end
  -- The counter was evicted while the lock was held: mint anew, above what the clock allowed before.
  return {1, mint(KEYS[2], last, micros(), ARGV[3])}
end
local left = redis.call('PTTL', KEYS[1])
if not waits then
  return {0, holder, left}
end
local now = micros()
return {0, holder, left, digits(now), enqueue(KEYS[3], ARGV[4], ARGV[5], now)}
