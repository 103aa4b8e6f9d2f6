-- Give a permit back, if the holder still has it, and hand it on with its slot to the first who waits; or stop waiting.
-- KEYS     as semaphore_queue.lua says
-- ARGV[1]  the holder                 ARGV[2]  how long an idle counter is kept, in ms
-- ARGV[3]  its entry in the queue, or '' if it never waited
-- returns  1 given back, 0 gone; {1 or 0, claim in ms} if it was handed on, for as long as that
-- The first write (ZREM, HDEL) is one that a server out of memory still takes; what follows is then taken as well.

local head = head_of(QUEUE)
redis.call('ZREM', QUEUE, ARGV[3])
local slot = held(ARGV[1])
if slot then
  redis.call('HDEL', HOLDERS, ARGV[1], '#' .. slot)
  redis.call('ZADD', PERMITS, 0, slot)
end
local last = last_token(COUNTER)
local claim = last and hand_on(last, ARGV[2])
if head == ARGV[3] and not claim then
  tell_next(QUEUE, next_end())
end
if slot and not in_use() and not head_of(QUEUE) then
  redis.call('DEL', PERMITS, HOLDERS)
end
local said = slot and 1 or 0
return claim and {said, claim} or said
