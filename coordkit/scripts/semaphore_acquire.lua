-- Grant one of n permits to a holder, with a slot and a fencing token; or say who is ahead, and queue up.
-- KEYS     as semaphore_queue.lua says
-- ARGV[1]  the holder who asks        ARGV[2]  ttl in ms        ARGV[3]  how long an idle counter is kept, in ms
-- ARGV[4]  its entry in the queue, or '' if it does not wait    ARGV[5]  its place, or '' if it has none yet
-- ARGV[6]  how many permits there are, as the asker thinks
-- returns  {1, token, slot}           granted; asked again by a present holder: the same, and the ttl anew
--          {-1, permits}              refused: those who hold and wait think that there are so many
--          {0, holder, ms left}       refused: all are held; this one ends first
--          {0, holder, ms left, server time in us, place, number ahead, 1 or 0: somebody listens}   refused, and queued
-- Asked twice it does what asking once does: each acquisition has a holder id of its own.

local last, broken = last_token(COUNTER)
if not last then
  return broken
end
try_writing(COUNTER)
local permits, waits = tonumber(ARGV[6]), ARGV[4] ~= ''
local agreed = tonumber(redis.call('HGET', HOLDERS, '#permits') or nil)
if not agreed then
  agreed = permits
  redis.call('HSET', HOLDERS, '#permits', permits)
  outlast(HOLDERS, tonumber(ARGV[2]))
end
local slot, token = held(ARGV[1])
if not slot then
  hand_on(last, ARGV[3], place_of(QUEUE, ARGV[4], ARGV[5]))
  last = last_token(COUNTER)
  slot, token = held(ARGV[1])
end
if agreed ~= permits then
  if in_use() or head_of(QUEUE) then
    return {-1, agreed}
  end
  redis.call('DEL', PERMITS, HOLDERS)
  redis.call('HSET', HOLDERS, '#permits', permits)
  outlast(HOLDERS, tonumber(ARGV[2]))
end
if slot then
  keep_until(slot, ARGV[2])
else
  slot = free_slot(permits)
  if slot then
    last = math.max(last + 1, now)
    token = digits(last)
    take(slot, ARGV[1], last, ARGV[2], ARGV[3])
  end
end
if slot then
  if waits then
    leave(QUEUE, ARGV[4], ARGV[5])
  end
  hand_on(last, ARGV[3]) -- there may be more that are free, and more who wait
  if waits then -- whoever is first now has relied on us to look: it must, when the next permit ends
    tell_next(QUEUE, next_end())
  end
  return {1, token, slot}
end
local first = redis.call('ZRANGE', PERMITS, 0, 0, 'WITHSCORES')
local holder = redis.call('HGET', HOLDERS, '#' .. first[1]) or 'nobody any more'
local left = math.ceil((first[2] - now) / 1000)
if permits > 1 then
  holder = holder .. ' (one of ' .. permits .. ')'
end
if not waits then
  return {0, holder, left}
end
return {0, holder, left, digits(now), enqueue(QUEUE, ARGV[4], ARGV[5], now)}
