-- Grant a lock to a holder, with a fencing token, or say who is ahead.
-- KEYS[1]  the lock: its value is the present holder
-- KEYS[2]  the last token that was given out for this name
-- ARGV[1]  the holder who asks        ARGV[2]  ttl in ms        ARGV[3]  how long an idle counter is kept, in ms
-- returns  {1, token}                 granted; asked again by the present holder: the same token, and the ttl anew
--          {0, holder, ms left}       refused
-- Asked twice it does what asking once does: each acquisition has a holder id of its own.

local last = tonumber(redis.call('GET', KEYS[2]) or '0')
if not last or last ~= last or last >= 9007199254740991 then
  return redis.error_reply('ERR coordkit: the token counter at ' .. KEYS[2] .. ' is not a usable number')
end
-- The write comes first, so that a replica and a server out of memory say so at once.
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  local holder = redis.call('GET', KEYS[1])
  if holder ~= ARGV[1] then
    return {0, holder, redis.call('PTTL', KEYS[1])}
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  if last > 0 then
    return {1, string.format('%.0f', last)}
  end
  -- The counter was evicted while the lock was held: mint anew, above what the clock allowed before.
end
-- Counters keep the order without clocks, the clock keeps it without counters; both would have to fail together.
local time = redis.call('TIME')
local token = string.format('%.0f', math.max(last + 1, time[1] * 1000000 + time[2]))
redis.call('SET', KEYS[2], token, 'PX', ARGV[3])
return {1, token}
