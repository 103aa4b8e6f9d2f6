-- Take keys at the target of a move, each once, however often and however late it is asked.
-- KEYS[1]  the moves to this shard      KEYS[2]  the keys that this move brought      KEYS[3 ...]  the keys
-- ARGV[1]  the number of the move; then for each key
--            what DUMP gave at the source, '' if it is not there
--            when it ends in ms by this server's clock, 0 if never
--            'take' if the source has the truth of it; 'keep' if what is here is newer (a move that is rolled back)
-- returns  {state, 1 or 0 for each key: taken now}; the state is open, or else nothing was done
-- A key that was taken is never taken again: what has happened to it here since is newer, also that it was deleted.
-- A key that is not at the source is marked as well, for the sake of a copy that comes later.
local state = redis.call('HGET', KEYS[1], ARGV[1]) or ''
local answer = {state}
if state ~= 'open' then
  return answer
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  return redis.error_reply('ERR coordkit: the marks of move ' .. ARGV[1] .. ' are gone from ' .. KEYS[2])
end
for at = 3, #KEYS do
  local value, ends, how = ARGV[at * 3 - 7], ARGV[at * 3 - 6], ARGV[at * 3 - 5]
  local fresh = redis.call('SADD', KEYS[2], KEYS[at])
  if fresh == 1 and how == 'take' then
    if value == '' then
      redis.call('UNLINK', KEYS[at])
    else
      -- Nobody has written it here yet: what stands there is left over from another time.
      local done = redis.pcall('RESTORE', KEYS[at], ends, value, 'REPLACE', 'ABSTTL')
      if done.err then
        redis.call('SREM', KEYS[2], KEYS[at])
        return redis.error_reply(done.err .. ' (key ' .. KEYS[at] .. ')')
      end
    end
  end
  answer[at - 1] = fresh
end
return answer
