-- How lock_release.lua begins, and nearly always ends: we hold the lock and nobody waits. It stands in front of what is
-- defined for those who wait, because to define that takes as long as this.

local holder, queued = redis.call('GET', KEYS[1]), redis.call('EXISTS', KEYS[3]) == 1
if holder == ARGV[1] and not queued then
  redis.call('DEL', KEYS[1])
  return 1
end

