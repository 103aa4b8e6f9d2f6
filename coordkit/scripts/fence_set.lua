-- Write a guarded key, if no later holder was here.
-- KEYS[1]  the fence                  KEYS[2]  the guarded key
-- ARGV[1]  the token as 20 digits     ARGV[2]  its holder, or ''
-- ARGV[3]  the value                  ARGV[4]  its ttl in milliseconds, or '' for none
-- returns  {1}                        written
--          {0, highest, its holder}   refused: a later holder was here

local refused = guard(KEYS[1], ARGV[1], ARGV[2])
if refused then
  return refused
end
if ARGV[4] == '' then
  redis.call('SET', KEYS[2], ARGV[3])
else
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
end
return {1}
