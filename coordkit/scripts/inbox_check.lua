-- Find out whether this user may publish to a channel from a script, and whether it is heard: handing on rests on both.
-- KEYS[1]  any key of the lock, for the slot
-- ARGV[1]  PUBLISH or SPUBLISH        ARGV[2]  the channel
-- returns  the number of listeners here

return redis.call(ARGV[1], ARGV[2], '')
