-- Say which keys a move has brought already.
-- KEYS[1]  the moves to this shard      KEYS[2]  the keys that this move brought
-- ARGV[1]  the number of the move       ARGV[2 ...]  keys
-- returns  {state, server time in ms, 1 or 0 for each key}; the state is open, over, or '' if it has not begun
local state = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if state == 'open' and redis.call('EXISTS', KEYS[2]) == 0 then
  return redis.error_reply('ERR coordkit: the marks of move ' .. ARGV[1] .. ' are gone from ' .. KEYS[2])
end
local time = redis.call('TIME')
local answer = {state, math.floor(time[1] * 1000 + time[2] / 1000)}
for at = 2, #ARGV do
  answer[at + 1] = state == 'open' and redis.call('SISMEMBER', KEYS[2], ARGV[at]) or 0
end
return answer
