-- Vote for an attempt: give it the lock of this one instance, and a ballot. Phase 1 of a quorum lock.
-- KEYS[1]  the vote: its value is the attempt that has it
-- KEYS[2]  the last ballot of this name
-- KEYS[3]  the roster     KEYS[4]  the highest ballot of any name     KEYS[5]  the floor: ballots start above it
-- ARGV[1]  the attempt    ARGV[2]  ttl in ms        ARGV[3]  the roster that the attempt counts by
-- ARGV[4]  a hint: no ballot below it, in us since 1970       ARGV[5]  how long an idle ballot is kept, in ms
-- returns  {1, ballot}                    won; asked again while it has the vote: the same ballot, and the ttl anew
--          {0, attempt, ms left, ballot}  refused
--          {-1, roster or ''}             does not vote: it forgot (''), or counts by another roster
-- An instance votes only while it has its roster, its highest ballot and its floor: who lost one of them lost state.

local roster = redis.call('GET', KEYS[3])
local highest, floor = tonumber(redis.call('GET', KEYS[4]) or ''), tonumber(redis.call('GET', KEYS[5]) or '')
if not roster or not highest or not floor then
  return {-1, ''}
end
if roster ~= ARGV[3] then
  return {-1, roster}
end
local last = redis.call('GET', KEYS[2])
local number = last and tonumber(last) or highest
if not (number < 9007199254740991 and highest < 9007199254740991) or (last and not tonumber(last)) then
  return redis.error_reply('ERR coordkit: the ballot at ' .. KEYS[2] .. ' is not a usable number')
end
-- The write comes first, so that a replica and a server out of memory say so at once.
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  local attempt = redis.call('GET', KEYS[1])
  if attempt ~= ARGV[1] then
    return {0, attempt, redis.call('PTTL', KEYS[1]), last or '0'}
  end
  if not last then
    return {-1, ''} -- the ballot of a vote that stands is gone
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, last}
end
local time = redis.call('TIME')
local hint = tonumber(ARGV[4])
if hint > (time[1] + 86400) * 1000000 + time[2] then
  hint = 0 -- one clock that is wrong by years must not burn the numbers of everybody
end
local ballot = math.max(number + 1, floor + 1, hint)
local text = string.format('%.0f', ballot)
redis.call('SET', KEYS[2], text, 'PX', ARGV[5])
if ballot > highest then
  redis.call('SET', KEYS[4], text)
end
return {1, text}
