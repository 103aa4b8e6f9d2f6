-- Seat an instance that is new or forgot: from now on it votes, with ballots above the floor.
-- KEYS[1]  the ticket     KEYS[2]  born: the number under which it was seated
-- KEYS[3]  the roster     KEYS[4]  the highest ballot of any name     KEYS[5]  the floor
-- ARGV[1]  the roster     ARGV[2]  this instance's own number in it   ARGV[3]  the floor
-- returns  1 seated, 0 refused: it forgot again since it drew that number, or has used it
-- The ticket is used up: a request that comes late, or twice, must not seat who has forgotten since.

if redis.call('GET', KEYS[1]) ~= ARGV[2] then
  return 0
end
local floor = math.max(tonumber(ARGV[3]), tonumber(redis.call('GET', KEYS[4]) or '0'))
local text = string.format('%.0f', floor)
redis.call('SET', KEYS[5], text)
redis.call('SET', KEYS[4], text)
redis.call('SET', KEYS[2], ARGV[2])
redis.call('SET', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[1])
return 1
