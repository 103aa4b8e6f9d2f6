-- Close a move on its target, once nothing is left at the source: nothing can be taken by it any more.
-- KEYS[1]  the moves to this shard      KEYS[2]  the keys that this move brought
-- ARGV[1]  the number of the move
-- returns  how many keys it had brought or found missing
-- Asked twice it does what asking once does. The entry stays, to tell those who are late that it is over, not to come.
redis.call('HSET', KEYS[1], ARGV[1], 'over')
local brought = redis.call('SCARD', KEYS[2])
redis.call('UNLINK', KEYS[2])
return math.max(0, brought - 1)
