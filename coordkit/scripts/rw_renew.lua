-- Set the ttl of a reader or a writer anew, if it is still in. Who is out is never let in again.
-- KEYS     as rw_queue.lua says
-- ARGV[1]  the holder      ARGV[2]  ttl in ms      ARGV[3]  how long an idle counter is kept, in ms
-- returns  1 renewed, 0 gone, -1 another writes
-- The first write (PEXPIRE) is one that a server out of memory still takes; what follows is then taken too.

local writer = redis.call('GET', WRITER)
if writer == ARGV[1] then
  redis.call('PEXPIRE', WRITER, ARGV[2])
  redis.call('PEXPIRE', COUNTER, ARGV[3])
  return 1
end
local ends = tonumber(redis.call('ZSCORE', READERS, ARGV[1]) or nil)
if not ends or ends <= now then
  return writer and -1 or 0
end
redis.call('PEXPIRE', COUNTER, ARGV[3])
read(ARGV[1], ARGV[2])
return 1
