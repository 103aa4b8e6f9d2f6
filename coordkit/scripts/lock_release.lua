-- Give a lock back, if the holder still has it. DEL is a write that a server out of memory still takes.
-- KEYS[1]  the lock
-- ARGV[1]  the holder
-- returns  1 given back, 0 gone, -1 another's

local holder = redis.call('GET', KEYS[1])
if not holder then
  return 0
end
if holder ~= ARGV[1] then
  return -1
end
redis.call('DEL', KEYS[1])
return 1
