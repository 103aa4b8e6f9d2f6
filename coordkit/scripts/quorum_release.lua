-- Give a vote back, if the attempt still has it, and level the ballots. DEL is a write that a server out of memory takes.
-- KEYS[1]  the vote       KEYS[2]  the last ballot of this name       KEYS[3]  the highest ballot of any name
-- ARGV[1]  the attempt; what ends with '/' means every attempt of one acquisition
-- ARGV[2]  the token, or 0 if it got none           ARGV[3]  how long an idle ballot is kept, in ms
-- returns  1 given back, 0 gone, -1 another's

local attempt = redis.call('GET', KEYS[1])
if not attempt then
  return 0
end
local mine = attempt == ARGV[1]
if string.sub(ARGV[1], -1) == '/' then
  mine = string.sub(attempt, 1, #ARGV[1]) == ARGV[1]
end
if not mine then
  return -1
end
redis.call('DEL', KEYS[1])
-- Ballots that stay apart cost the next attempt a second round trip. What was lost is not made again by this.
local last, highest = tonumber(redis.call('GET', KEYS[2]) or ''), tonumber(redis.call('GET', KEYS[3]) or '')
local token = tonumber(ARGV[2])
if last and highest and last < token then
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
  if highest < token then
    redis.call('SET', KEYS[3], ARGV[2])
  end
end
return 1
