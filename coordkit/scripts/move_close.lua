-- Close a move on its target, once nothing is left at the source: nothing can be taken by it any more.
-- KEYS[1]  the moves to this shard      KEYS[2]  the keys that this move brought
-- ARGV[1]  the number of the move       ARGV[2]  '1' if it must have begun, '' if perhaps it has not
-- returns  how many keys it had brought or found missing
-- Asked twice it does what asking once does. The entry stays, to tell those who are late that it is over, not to come.
local known = redis.call('HSETNX', KEYS[1], ARGV[1], 'over') == 0
if ARGV[2] == '1' and not known then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return redis.error_reply('ERR coordkit: this shard does not know move ' .. ARGV[1] .. ' any more: it lost its data')
end
redis.call('HSET', KEYS[1], ARGV[1], 'over')
local brought = redis.call('SCARD', KEYS[2])
redis.call('UNLINK', KEYS[2])
return math.max(0, brought - 1)
