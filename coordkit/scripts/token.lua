-- Fencing tokens. Not a script of its own: it is put in front of those that give or look after one.

local function digits(number)
  return string.format('%.0f', number) -- tostring() would write 1.79e+15
end

-- A write that changes nothing, but that a replica and a server out of memory refuse as they would any other.
local function try_writing(counter)
  redis.call('SETRANGE', counter, 0, '')
end

local function micros()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Return the last token that was given out, 0 if none is known; nil, and an error, if no higher one can be made.
local function last_token(counter)
  local last = tonumber(redis.call('GET', counter) or '0')
  if not last or last ~= last or last >= 9007199254740991 then
    return nil, redis.error_reply('ERR coordkit: the token counter at ' .. counter .. ' is not a usable number')
  end
  return last
end

-- Return a new token, in digits. Counters keep the order without clocks, the clock keeps it without counters; both would
-- have to fail together.
local function mint(counter, last, now, keep)
  local token = digits(math.max(last + 1, now))
  redis.call('SET', counter, token, 'PX', keep)
  return token
end

