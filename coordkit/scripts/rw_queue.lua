-- What the scripts of a readers-writer lock share. Put behind queue.lua and in front of them. Their keys are, always,
-- KEYS[1]  the writer: its value is the present holder
-- KEYS[2]  the readers: a sorted set, the score of a holder is the server's microseconds at which its lease ends
-- KEYS[3]  the last token that was given out     KEYS[4]  the queue
-- All readers of a phase (from the first that enters to the last that leaves) share the token of the first.

local WRITER, READERS, COUNTER, QUEUE = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now = micros()

-- Put out the readers whose leases have ended; return how many there are.
local function prune()
  redis.call('ZREMRANGEBYSCORE', READERS, '-inf', digits(now))
  return redis.call('ZCARD', READERS)
end

-- Return the reader who stays longest, and for how long, in ms; nil if there is none.
local function last_reader()
  local last = redis.call('ZRANGE', READERS, -1, -1, 'WITHSCORES')
  if last[1] then
    return last[1], math.ceil((last[2] - now) / 1000)
  end
end

local function read(holder, ms)
  redis.call('ZADD', READERS, digits(now + ms * 1000), holder)
  if redis.call('PTTL', READERS) < ms + 1000 then
    redis.call('PEXPIRE', READERS, ms + 1000) -- for when nobody is left to put the last one out
  end
end

-- Who a token is claimed by: a fence takes an equal token from its own holder only, and all readers are that.
local function signed(token)
  return 'readers:' .. digits(token)
end

-- Return the token of a reader who enters now.
local function reading(last)
  if last > 0 and redis.call('ZCARD', READERS) > 0 then
    return last
  end
  return math.max(last + 1, now)
end

-- Let in whoever is first: a writer if nobody is in, all readers up to the next writer if no
-- writer is. Return the longest of their claims in ms, or nil.
local function hand_on(last, keep, before)
  if redis.call('EXISTS', QUEUE) == 0 then
    return nil
  end
  local readers, writer = redis.call('ZCARD', READERS), redis.call('EXISTS', WRITER) == 1
  local function offer(waiter)
    if writer or (waiter.mode == 'w' and readers > 0) then
      return nil
    elseif waiter.mode == 'w' then
      return math.max(last + 1, now), '-', function(token)
        writer = true
        redis.call('SET', COUNTER, digits(token), 'PX', keep)
        redis.call('SET', WRITER, waiter.holder, 'PX', waiter.claim)
      end
    end
    local shared = reading(last)
    return shared, '- ' .. signed(shared), function(token)
      last, readers = token, readers + 1
      redis.call('SET', COUNTER, digits(token), 'PX', keep)
      read(waiter.holder, waiter.claim)
    end
  end
  return serve(QUEUE, offer, before)
end

-- Take writers who are gone out of the way of readers, who would otherwise wait for them as long as anybody reads.
local function pass_over()
  local entry = head_of(QUEUE)
  local silent = {}
  while entry and parsed(entry).mode == 'w' do
    local waiter = parsed(entry)
    local where = waiter.verb .. waiter.channel
    if not silent[where] and listening(waiter) then
      return
    end
    silent[where] = true
    bury(QUEUE, silent)
    entry = head_of(QUEUE)
  end
end

