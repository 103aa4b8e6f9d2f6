-- Empty a shard of a topology, all but what it knows of the topology.
-- KEYS[1]  the epoch      KEYS[2]  the moves to this shard      KEYS[3]  the last move that is over
-- ARGV     FLUSHDB or FLUSHALL, and what follows it
-- returns  OK; an error, and nothing was done, if keys are on their way to it, or it knows no epoch
local epoch = redis.call('GET', KEYS[1])
if not epoch then
  return redis.error_reply('ERR coordkit: this shard knows no epoch of its topology: it was wiped, or is none of it')
end
local moves = redis.call('HGETALL', KEYS[2])
for at = 2, #moves, 2 do
  if moves[at] == 'open' then
    return redis.error_reply('ERR coordkit: move ' .. moves[at - 1] .. ' brings keys to this shard: wait for its end')
  end
end
local settled = redis.call('GET', KEYS[3])
redis.call(unpack(ARGV))
redis.call('SET', KEYS[1], epoch)
if settled then
  redis.call('SET', KEYS[3], settled)
end
if #moves > 0 then
  redis.call('HSET', KEYS[2], unpack(moves))
end
return redis.status_reply('OK')
