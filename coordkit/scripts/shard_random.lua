-- Return a random key that is none of what a shard of a topology keeps for itself.
-- KEYS[1]  what the names of those begin with
-- returns  a key; false if there is none, or if a hundred tries found none
for _ = 1, 100 do
  local key = redis.call('RANDOMKEY')
  if not key or string.sub(key, 1, #KEYS[1]) ~= KEYS[1] then
    return key
  end
end
return false
