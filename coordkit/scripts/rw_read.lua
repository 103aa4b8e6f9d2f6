-- Let a reader in, with the token of its phase; or say who is ahead, and queue up.
-- KEYS     as rw_queue.lua says
-- ARGV[1]  the holder who asks        ARGV[2]  ttl in ms        ARGV[3]  how long an idle counter is kept, in ms
-- ARGV[4]  its entry in the queue, or '' if it does not wait    ARGV[5]  its place, or '' if it has none yet
-- returns  {1, token, whom it is claimed by}   granted; asked again by a present reader: the same, and the ttl anew
--          {0, holder, ms left}                refused: a writer is in, or waits ahead while others read
--          {0, holder, ms left, server time in us, place, number ahead, 1 or 0: somebody listens}   refused, and queued
-- Asked twice it does what asking once does: each acquisition has a holder id of its own.

local last, broken = last_token(COUNTER)
if not last then
  return broken
end
try_writing(COUNTER)
local readers, waits = prune(), ARGV[4] ~= ''
local place = place_of(QUEUE, ARGV[4], ARGV[5])
local mine = redis.call('ZSCORE', READERS, ARGV[1])
if not mine then
  if readers > 0 then
    pass_over()
  end
  hand_on(last, ARGV[3], place)
  last = last_token(COUNTER)
  readers, mine = redis.call('ZCARD', READERS), redis.call('ZSCORE', READERS, ARGV[1])
end
local writer = redis.call('GET', WRITER)
local ahead, its_place = head_of(QUEUE)
local first = not ahead or (place and its_place >= place)
if mine or (not writer and (first or readers == 0)) then
  local token = reading(last)
  redis.call('SET', COUNTER, digits(token), 'PX', ARGV[3])
  read(ARGV[1], ARGV[2])
  if waits then
    leave(QUEUE, ARGV[4], ARGV[5])
  end
  hand_on(token, ARGV[3]) -- readers right behind come along
  return {1, digits(token), signed(token)}
end
local holder, left = writer, redis.call('PTTL', WRITER)
if not writer then
  holder, left = last_reader()
  holder = holder .. ' (one of ' .. readers .. ' reading), and ' .. parsed(ahead).holder .. ' waits ahead'
end
if not waits then
  return {0, holder, left}
end
return {0, holder, left, digits(now), enqueue(QUEUE, ARGV[4], ARGV[5], now)}
