-- Open a move on its target: from now on keys may be brought. Both shards must have been fenced before.
-- KEYS[1]  the moves to this shard: a hash of number -> open or over      KEYS[2]  the keys that this move brought
-- ARGV[1]  the number of the move
-- returns  'open'; 'over' if it was closed already, and nothing was done
-- Asked twice it does what asking once does.
if redis.call('HSETNX', KEYS[1], ARGV[1], 'open') == 1 then
  redis.call('SADD', KEYS[2], KEYS[2]) -- which is never moved; so the set is there, and missed where it was evicted
  -- What it still says of moves that are over was for clients whose connections the fence has dropped.
  local past = redis.call('HGETALL', KEYS[1])
  for at = 1, #past, 2 do
    if past[at + 1] == 'over' then
      redis.call('HDEL', KEYS[1], past[at])
    end
  end
end
return redis.call('HGET', KEYS[1], ARGV[1])
