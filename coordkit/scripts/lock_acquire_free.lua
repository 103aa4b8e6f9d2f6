-- How lock_acquire.lua begins, and nearly always ends: the lock is free and nobody waits. It stands in front of what is
-- defined for those who wait, because to define that takes as long as this.

local last, broken = last_token(KEYS[2])
if not last then
  return broken
end
-- What is read comes first: should the user lack a right, nothing was written yet. Then the write, so that a replica and
-- a server out of memory say so at once.
local queued, present = redis.call('EXISTS', KEYS[3]) == 1, micros()
local taken = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if taken and not queued then
  return {1, mint(KEYS[2], last, present, ARGV[3])}
end

