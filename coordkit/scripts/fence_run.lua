-- Run a user's script, if no later holder was here. Its text takes the place of the marked line, in a function of its
-- own, and finds its own KEYS and ARGV: ours are taken off. It gives one value, as a script does.
-- KEYS[1]  the fence                  KEYS[2...]  the user's
-- ARGV[1]  the token as 20 digits     ARGV[2]     its holder, or ''     ARGV[3...]  the user's
-- returns  {1}                        run; it returned nothing
--          {1, what it returned}      run; converted as Redis converts it outside of a list
--          {0, highest, its holder}   refused: a later holder was here
--          an error                   what the user's script raised, or returned as one

local refused = guard(KEYS[1], ARGV[1], ARGV[2])
if refused then
  return refused
end
table.remove(KEYS, 1)
table.remove(ARGV, 1)
table.remove(ARGV, 1)
local returned = (function(...)
-- THE USER'S SCRIPT
end)()
if type(returned) == 'table' and returned.err then
  return returned
end
return {1, returned}
