-- Take a lock from whoever holds it, for an operator: raise the token, and hand the lock on with a still higher one.
-- KEYS[1]  the lock        KEYS[2]  the token counter     KEYS[3]  the queue      KEYS[4]  what became of this request
-- ARGV[1]  how long an idle counter is kept, in ms        ARGV[2]  the holder to take it from, or '' for whoever
-- returns  {1, token}      done; {1, token, claim in ms} if it was handed on, for as long as that
--          {0, holder}     not done: this one holds it, or nobody if ''
-- Each request has a key of its own, in which its token stands for a while: asked again, it takes nothing from the next.

local KEEP_ANSWER = 600000 -- ms

local done = redis.call('GET', KEYS[4])
if done then
  return {1, done}
end
local last, broken = last_token(KEYS[2])
if not last then
  return broken
end
if ARGV[2] ~= '' then
  local holder = redis.call('GET', KEYS[1])
  if holder ~= ARGV[2] then
    return {0, holder or ''}
  end
end
local present = micros() -- before the first write: should the user lack the right
redis.call('DEL', KEYS[1]) -- first of the writes, because a server out of memory takes it, and then the rest
local token = mint(KEYS[2], last, present, ARGV[1])
redis.call('SET', KEYS[4], token, 'PX', KEEP_ANSWER)
return {1, token, hand_on(KEYS[1], KEYS[2], KEYS[3], ARGV[1])}
