-- Let a reader or a writer out, if it is still in, and let in whoever waits; or stop waiting.
-- KEYS     as rw_queue.lua says
-- ARGV[1]  the holder                 ARGV[2]  how long an idle counter is kept, in ms
-- ARGV[3]  its entry in the queue, or '' if it never waited
-- returns  1 given back, 0 gone, -1 another writes; {1, 0 or -1, claim in ms} if it was handed on, for as long as that
-- The first write (ZREMRANGEBYSCORE) is one that a server out of memory still takes; what follows is then taken too.

prune()
local head
if ARGV[3] ~= '' then
  head = head_of(QUEUE)
  redis.call('ZREM', QUEUE, ARGV[3])
end
local writer, said = redis.call('GET', WRITER), 0
if writer == ARGV[1] then
  redis.call('DEL', WRITER)
  said = 1
elseif redis.call('ZSCORE', READERS, ARGV[1]) then
  local longest, left = last_reader()
  redis.call('ZREM', READERS, ARGV[1])
  local other, sooner = last_reader()
  if other and longest == ARGV[1] and sooner < left then
    tell_next(QUEUE, sooner) -- who waits would else look again only when we would have gone
  end
  said = 1
elseif writer then
  said = -1
end
local last = last_token(COUNTER)
local claim = last and hand_on(last, ARGV[2])
if head == ARGV[3] and not claim then
  local _, left = last_reader()
  tell_next(QUEUE, left or redis.call('PTTL', WRITER))
end
return claim and {said, claim} or said
