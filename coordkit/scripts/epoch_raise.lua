-- Raise the epoch that a shard of a topology knows; it never falls.
-- KEYS[1]  the epoch
-- ARGV[1]  the epoch to raise it to      ARGV[2]  '1' to make it where it is missing, '' to refuse
-- returns  the epoch that stands there now; -1 if it is missing, -2 if what stands there is no epoch: nothing was done
-- Asked twice it does what asking once does. It writes even what stands there already, so that a replica says no, and
-- that a WAIT behind it waits for what an earlier, unanswered one wrote.
local known = redis.call('GET', KEYS[1])
if not known and ARGV[2] ~= '1' then
  return -1
end
local seen = tonumber(known or '0')
if not seen then
  return -2
end
local epoch = math.max(seen, tonumber(ARGV[1]))
redis.call('SET', KEYS[1], string.format('%.0f', epoch))
return epoch
