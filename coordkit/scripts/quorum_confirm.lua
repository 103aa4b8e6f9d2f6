-- Raise the ballot of a vote that an attempt still has to the attempt's token. Phase 2 of a quorum lock.
-- KEYS[1]  the vote       KEYS[2]  the last ballot of this name
-- KEYS[3]  the roster     KEYS[4]  the highest ballot of any name     KEYS[5]  the floor
-- ARGV[1]  the attempt    ARGV[2]  ttl in ms        ARGV[3]  the roster that the attempt counts by
-- ARGV[4]  the token      ARGV[5]  how long an idle ballot is kept, in ms
-- returns  1 confirmed, 0 refused, -1 does not vote
-- A ballot above the token was given out in a later hold: our vote was lost meanwhile and won again, which is no hold.

local roster = redis.call('GET', KEYS[3])
local highest = tonumber(redis.call('GET', KEYS[4]) or '')
if roster ~= ARGV[3] or not highest or not redis.call('GET', KEYS[5]) then
  return -1
end
local last, token = tonumber(redis.call('GET', KEYS[2]) or ''), tonumber(ARGV[4])
if redis.call('GET', KEYS[1]) ~= ARGV[1] or not last or last > token then
  return 0
end
redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
if token > highest then
  redis.call('SET', KEYS[4], ARGV[4])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
