-- Set the ttl of a permit anew, if the holder still has it. A permit that is gone is never made again.
-- KEYS     as semaphore_queue.lua says
-- ARGV[1]  the holder      ARGV[2]  ttl in ms      ARGV[3]  how long an idle counter is kept, in ms
-- returns  1 renewed, 0 gone
-- The first write (PEXPIRE) is one that a server out of memory still takes; what follows is then taken as well.

local slot = held(ARGV[1])
if not slot then
  return 0
end
redis.call('PEXPIRE', COUNTER, ARGV[3])
keep_until(slot, ARGV[2])
return 1
