-- Say who this instance is to its set; for one that wants a seat, draw a number that names it since it last forgot.
-- KEYS[1]  the ticket     KEYS[2]  born: the number under which it was seated
-- KEYS[3]  the roster     KEYS[4]  the highest ballot of any name     KEYS[5]  the floor
-- ARGV[1]  the least number that a ticket may have, or 0 to draw none
-- returns  {ticket or '', born or '', roster or '', highest or '', run id, role}; no roster if it lost state

local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
local ticket, born = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])
local roster, highest = redis.call('GET', KEYS[3]), redis.call('GET', KEYS[4])
if not born or not highest or not redis.call('GET', KEYS[5]) then
  roster = false
end
local least = tonumber(ARGV[1])
if least > 0 and not (ticket and tonumber(ticket) >= least) then
  local time = redis.call('TIME')
  ticket = string.format('%.0f', math.max(least, time[1] * 1000000 + time[2]))
  redis.call('SET', KEYS[1], ticket)
end
return {
  ticket or '', born or '', roster or '', highest or '',
  string.match(info, 'run_id:(%w+)'), string.match(info, 'role:(%w+)'),
}
