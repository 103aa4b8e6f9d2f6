-- How lock_acquire.lua begins, and nearly always ends: the lock is free and nobody waits. It stands in front of what is
-- defined for those who wait, because to define that takes as long as this.

local last, broken = last_token(KEYS[2])
if not last then
  return broken
end
-- The write comes first, so that a replica and a server out of memory say so at once.
local taken = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if taken and redis.call('EXISTS', KEYS[3]) == 0 then
  return {1, mint(KEYS[2], last, micros(), ARGV[3])}
end

