-- Delete a guarded key, if no later holder was here.
-- KEYS[1]  the fence                  KEYS[2]  the guarded key
-- ARGV[1]  the token as 20 digits     ARGV[2]  its holder, or ''
-- returns  {1}                        gone
--          {0, highest, its holder}   refused: a later holder was here

local refused = guard(KEYS[1], ARGV[1], ARGV[2])
if refused then
  return refused
end
redis.call('DEL', KEYS[2])
return {1}
