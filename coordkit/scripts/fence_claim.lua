-- Raise a fence to a token, so that every earlier holder is refused from now on.
-- KEYS[1]  the fence
-- ARGV[1]  the token as 20 digits     ARGV[2]  its holder, or ''
-- returns  {1}                        claimed (again)
--          {0, highest, its holder}   refused: a later holder was here

return guard(KEYS[1], ARGV[1], ARGV[2]) or {1}
