-- Put another holder in the place of one that handed its lock over, with a token of its own, so that a fence refuses what
-- the former sends late. A lock that is gone is never made again.
-- KEYS[1]  the lock        KEYS[2]  the token counter
-- ARGV[1]  the one that handed it over             ARGV[2]  the one that adopts it
-- ARGV[3]  ttl in ms       ARGV[4]  how long an idle counter is kept, in ms
-- returns  {1, token} adopted; asked again by the same: the same token, and the ttl anew; {0} gone, {-1} another's
-- Of two that adopt the same one is too late: whom the text names holds no more.

local last, broken = last_token(KEYS[2])
if not last then
  return broken
end
local holder = redis.call('GET', KEYS[1])
if not holder then
  return {0}
end
if holder == ARGV[2] and last > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {1, digits(last)}
end
if holder ~= ARGV[1] and holder ~= ARGV[2] then
  return {-1}
end
local present = micros() -- before the first write: should the user lack the right
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return {1, mint(KEYS[2], last, present, ARGV[4])}
