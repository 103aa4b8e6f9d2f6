-- The comparison that every fenced access makes first. Not a script of its own: it is put in front of the others.
-- A fence's value is '<token as 20 digits> <holder>'. Digits are compared as text: Lua's numbers end at 2^53.
-- A lower token is late; an equal one from another holder is a duplicate that no healthy source gives out.

local function guard(fence, token, holder)
  local seen = redis.call('GET', fence)
  if seen then
    local highest, by = string.sub(seen, 1, 20), string.sub(seen, 22)
    if token < highest or (token == highest and holder ~= '' and by ~= '' and holder ~= by) then
      return {0, highest, by}
    end
    if token == highest and (holder == '' or by ~= '') then
      -- Changes nothing (a fence has no expiry), but it is a write: a replica, whose copy may be old, says no.
      redis.call('PERSIST', fence)
      return nil
    end
  end
  redis.call('SET', fence, token .. ' ' .. holder)
  return nil
end

