-- What the scripts of a semaphore share. Put behind queue.lua and in front of them. Their keys are, always,
-- KEYS[1]  the permits: a sorted set of slots, their scores the server's microseconds until which they are taken
-- KEYS[2]  the holders: a hash; of a holder '<slot> <token>', of '#<slot>' the holder, of '#permits' how many there are
-- KEYS[3]  the last token that was given out     KEYS[4]  the queue
-- A permit is held if the two agree on it and its time is not over: should one of the keys be evicted, none is.

local PERMITS, HOLDERS, COUNTER, QUEUE = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now = micros()

local function outlast(key, ms)
  if redis.call('PTTL', key) < ms + 1000 then
    redis.call('PEXPIRE', key, ms + 1000)
  end
end

-- Return the slot and the token that a holder has; nil if it has none (any more).
local function held(holder)
  local slot, token = string.match(redis.call('HGET', HOLDERS, holder) or '', '^(%d+) (%d+)$')
  local ends = slot and tonumber(redis.call('ZSCORE', PERMITS, slot) or nil)
  if ends and ends > now then
    return slot, token
  end
end

local function in_use()
  local ends = redis.call('ZRANGE', PERMITS, -1, -1, 'WITHSCORES')[2]
  return ends and tonumber(ends) > now
end

-- Return in how many ms the next permit ends; 0 if none is held.
local function next_end()
  local soonest = redis.call('ZRANGE', PERMITS, 0, 0, 'WITHSCORES')[2]
  return soonest and math.max(1, math.ceil((soonest - now) / 1000)) or 0
end

-- Return a slot that nobody has, or nil.
local function free_slot(permits)
  while true do
    local slot = redis.call('ZRANGEBYSCORE', PERMITS, '-inf', digits(now), 'LIMIT', 0, 1)[1]
    if not slot then
      local fresh = redis.call('ZCARD', PERMITS)
      if fresh >= permits then
        return nil
      end
      while redis.call('ZSCORE', PERMITS, digits(fresh)) do
        fresh = (fresh + 1) % permits
      end
      return digits(fresh)
    elseif tonumber(slot) < permits then
      return slot
    end
    redis.call('ZREM', PERMITS, slot) -- of a number of permits that was evicted
  end
end

local function keep_until(slot, ms)
  redis.call('ZADD', PERMITS, digits(now + ms * 1000), slot)
  outlast(PERMITS, tonumber(ms))
  outlast(HOLDERS, tonumber(ms))
end

local function take(slot, holder, token, ms, keep)
  -- Who had this slot has nothing any more; what this holder had before has ended, perhaps in another slot.
  local before = redis.call('HGET', HOLDERS, '#' .. slot)
  local ended = string.match(redis.call('HGET', HOLDERS, holder) or '', '^%d+')
  if before or ended then
    redis.call('HDEL', HOLDERS, before or holder, '#' .. (ended or slot))
  end
  redis.call('SET', COUNTER, digits(token), 'PX', keep)
  redis.call('HSET', HOLDERS, holder, slot .. ' ' .. digits(token), '#' .. slot, holder)
  keep_until(slot, ms)
end

-- Hand the slots that are free to those who wait; return the longest of their claims in ms, or nil.
local function hand_on(last, keep, before)
  if redis.call('EXISTS', QUEUE) == 0 then
    return nil
  end
  local permits = tonumber(redis.call('HGET', HOLDERS, '#permits') or nil)
  local function offer(waiter)
    local slot = permits and free_slot(permits)
    if not slot then
      return nil
    end
    return math.max(last + 1, now), slot, function(token)
      last = token
      take(slot, waiter.holder, token, waiter.claim, keep)
    end
  end
  return serve(QUEUE, offer, before)
end

