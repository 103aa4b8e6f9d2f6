-- Drop keys at the target of a move that has not begun there: they are left over from when it had these slots before.
-- KEYS[1]  the epoch      KEYS[2]  the moves to this shard      KEYS[3 ...]  the keys
-- ARGV[1]  the epoch by which that was decided: before the move is announced, or as its shards are fenced for it
-- ARGV[2]  the number of the move, or that which it will have
-- returns  how many were there; -1 if the shard knows a later epoch or none, -2 if the move has begun: nothing was done
-- Who comes late drops nothing that is alive: a move raises the epoch here before it begins.
local known = tonumber(redis.call('GET', KEYS[1]) or '')
if not known or known > tonumber(ARGV[1]) then
  return -1
end
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1 then
  return -2
end
local dropped = 0
for at = 3, #KEYS do
  dropped = dropped + redis.call('UNLINK', KEYS[at])
end
return dropped
