-- How lock_acquire.lua begins, and nearly always ends: the lock is free and nobody waits. It stands in front of all that
-- is defined for other cases, because to define that takes as long as this. Its token is the one that token.lua would
-- mint; that says why. A number is exact here: Redis writes it with 17 digits, and returns it as an integer.

-- What is read comes first: should the user lack a right, nothing was written yet. Then the write, so that a replica and
-- a server out of memory say so at once.
local last, time = tonumber(redis.call('GET', KEYS[2]) or '0'), redis.call('TIME')
local queued = redis.call('EXISTS', KEYS[3]) == 1
local usable = last and last < 9007199254740991
local taken = usable and redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if taken and not queued then
  local token = math.max(last + 1, time[1] * 1000000 + time[2])
  redis.call('SET', KEYS[2], token, 'PX', ARGV[3])
  return {1, token}
end

