-- Read a guarded key, and raise the fence with the read: a late writer is refused from here on.
-- KEYS[1]  the fence                  KEYS[2]  the guarded key
-- ARGV[1]  the token as 20 digits     ARGV[2]  its holder, or ''
-- returns  {1, value or nil}          read
--          {0, highest, its holder}   refused: a later holder was here

local refused = guard(KEYS[1], ARGV[1], ARGV[2])
if refused then
  return refused
end
return {1, redis.call('GET', KEYS[2])}
