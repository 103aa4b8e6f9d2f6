-- Renew a lock that is about to change hands, and tell the time.
-- KEYS[1]  the lock        KEYS[2]  the token counter
-- ARGV[1]  the holder      ARGV[2]  ttl in ms      ARGV[3]  how long an idle counter is kept, in ms
-- returns  the server's time in us; 0 gone, -1 another's

local holder = redis.call('GET', KEYS[1])
if not holder then
  return 0
end
if holder ~= ARGV[1] then
  return -1
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
local time = redis.call('TIME')
return time[1] * 1000000 + time[2]
