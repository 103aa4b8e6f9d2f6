-- Give a lock back, if the holder still has it, and hand it on to the first who waits; or stop waiting for it.
-- KEYS[1]  the lock                   KEYS[2]  the token counter     KEYS[3]  the queue
-- ARGV[1]  the holder                 ARGV[2]  how long an idle counter is kept, in ms
-- ARGV[3]  its entry in the queue, if it may stand there
-- returns  1 given back, 0 gone, -1 another's; {1 or 0, claim in ms} if it was handed on, for as long as that
-- The first write (ZREM, DEL) is one that a server out of memory still takes; what follows it is then taken as well.

-- Behind lock_release_free.lua, which knows the `holder`, and whether somebody is `queued`.

local entry, head = ARGV[3] or '', nil
if entry ~= '' then
  head = head_of(KEYS[3])
  redis.call('ZREM', KEYS[3], entry)
end
if holder and holder ~= ARGV[1] then
  if head == entry then
    tell_next(KEYS[3], redis.call('PTTL', KEYS[1]))
  end
  return -1
end
-- The lock is there until it is another's: a key of a slot that is on its way to another node must not be made anew.
local could, claim = true, nil
if queued then
  could, claim = pcall(hand_on, KEYS[1], KEYS[2], KEYS[3], ARGV[2])
end
if holder and not (could and claim) then
  redis.call('DEL', KEYS[1])
end
if not could then
  return type(claim) == 'table' and claim or redis.error_reply(claim)
end
local said = holder and 1 or 0
return claim and {said, claim} or said
