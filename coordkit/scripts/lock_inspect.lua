-- Say who holds a lock and who waits for it. Writes nothing: a replica and a server out of memory answer as well.
-- KEYS[1]  the lock        KEYS[2]  the token counter     KEYS[3]  the queue
-- returns  {ms left; -1 without expiry, -2 if nobody holds it, the holder or '', the last token or '0',
--           {entry, place, entry, place ... in order}}

return {
  redis.call('PTTL', KEYS[1]),
  redis.call('GET', KEYS[1]) or '',
  redis.call('GET', KEYS[2]) or '0',
  redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES'),
}
