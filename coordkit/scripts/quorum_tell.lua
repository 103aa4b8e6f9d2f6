-- Tell an instance that has its seat of a newer roster, and read the highest ballot in the same step: attempts that
-- count by an older roster get no vote here from now on, and those that got one are below what is returned.
-- KEYS[1]  born: the number under which it was seated
-- KEYS[2]  the roster     KEYS[3]  the highest ballot of any name     KEYS[4]  the floor
-- ARGV[1]  the new roster     ARGV[2]  which of its numbers (from 1) is this instance's
-- returns  {1, highest}       it counts by the new roster
--          {0, roster}        refused: it knows one that is newer in some seat, or sits in another seat
--          {-1}               it forgot

local current, highest = redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3])
local born = redis.call('GET', KEYS[1])
if not current or not highest or not born or not redis.call('GET', KEYS[4]) then
  return {-1}
end
if current ~= ARGV[1] then
  local seats = {}
  for number in string.gmatch(current, '%d+') do
    seats[#seats + 1] = tonumber(number)
  end
  local seat = 0
  for number in string.gmatch(ARGV[1], '%d+') do
    seat = seat + 1
    if not seats[seat] or tonumber(number) < seats[seat] or (seat == tonumber(ARGV[2]) and number ~= born) then
      return {0, current}
    end
  end
  if seat ~= #seats then
    return {0, current}
  end
  redis.call('SET', KEYS[2], ARGV[1])
end
return {1, highest}
