-- Let a writer in, with a fencing token; or say who is ahead, and queue up.
-- KEYS     as rw_queue.lua says
-- ARGV[1]  the holder who asks        ARGV[2]  ttl in ms        ARGV[3]  how long an idle counter is kept, in ms
-- ARGV[4]  its entry in the queue, or '' if it does not wait    ARGV[5]  its place, or '' if it has none yet
-- returns  {1, token}                 granted; asked again by the present writer: the same token, and the ttl anew
--          {0, holder, ms left}       refused
--          {0, holder, ms left, server time in us, place, number ahead, 1 or 0: somebody listens}   refused, and queued
-- Asked twice it does what asking once does: each acquisition has a holder id of its own.

local last, broken = last_token(COUNTER)
if not last then
  return broken
end
try_writing(COUNTER)
prune()
local waits, writer, token = ARGV[4] ~= '', redis.call('GET', WRITER), nil
if writer ~= ARGV[1] then
  hand_on(last, ARGV[3], place_of(QUEUE, ARGV[4], ARGV[5]))
  last = last_token(COUNTER)
  if redis.call('ZCARD', READERS) == 0 and redis.call('SET', WRITER, ARGV[1], 'NX', 'PX', ARGV[2]) then
    token = mint(COUNTER, last, now, ARGV[3])
  end
  writer = redis.call('GET', WRITER)
end
if writer == ARGV[1] then
  if not token then
    redis.call('PEXPIRE', WRITER, ARGV[2])
  end
  if waits then
    leave(QUEUE, ARGV[4], ARGV[5])
  end
  -- The counter may have been evicted while the lock was held: mint anew, above what the clock allowed before.
  return {1, token or (last > 0 and digits(last)) or mint(COUNTER, last, now, ARGV[3])}
end
local holder, left = writer, redis.call('PTTL', WRITER)
if not writer then
  holder, left = last_reader()
  holder = holder .. ' (one of ' .. redis.call('ZCARD', READERS) .. ' reading)'
end
if not waits then
  return {0, holder, left}
end
return {0, holder, left, digits(now), enqueue(QUEUE, ARGV[4], ARGV[5], now)}
