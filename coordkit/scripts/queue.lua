-- What every fair lock shares: a queue of those who wait, and handing on to the first of them who listens. Not a script
-- of its own: it is put in front of the others, behind token.lua.
--
-- An entry of the queue is '<mode> <claim in ms> <PUBLISH or SPUBLISH> <holder> <channel>', its score is the waiter's
-- place: the server's microseconds when it first asked. What a waiter is told, on its channel:
--   '<holder> grant <token> <server time in us> <slot or ->'   it is yours for the claim; renew it
--   '<holder> grant <token> <server time in us> - <by>'        the same, by a token that all readers of a phase share
--   '<holder> next <ms>'                                       you are first now; what you wait for ends in so long

local KEEP_QUEUE = 3600000 -- ms; whoever still waits asks again, and so keeps the queue, far more often

local function parsed(entry)
  local mode, claim, verb, holder, channel = string.match(entry, '^(%S+) (%d+) (%u+) (%S+) (.+)$')
  return {mode = mode, claim = tonumber(claim), verb = verb, holder = holder, channel = channel}
end

-- Return the first entry of a queue and its place, or nil; and the second entry, if there is one.
local function head_of(queue)
  local head = redis.call('ZRANGE', queue, 0, 1, 'WITHSCORES')
  return head[1], tonumber(head[2]), head[3]
end

-- Return how many heard it; -1 if this client may not publish: then nothing is known about who listens.
local function tell(waiter, what)
  local heard = redis.pcall(waiter.verb, waiter.channel, waiter.holder .. ' ' .. what)
  return type(heard) == 'number' and heard or -1
end

-- Return whether somebody listens where a waiter does; yes if that cannot be known.
local function listening(waiter)
  local sort = waiter.verb == 'SPUBLISH' and 'SHARDNUMSUB' or 'NUMSUB'
  local listeners = redis.pcall('PUBSUB', sort, waiter.channel)[2]
  return listeners ~= 0
end

-- Return whether a waiter of a Cluster (there the channel has a tag) listens at another node than this, its slot having
-- moved. What is told reaches it there as well, but is not counted: it must not hear of a grant that is then not made.
local function elsewhere(waiter)
  return string.find(waiter.channel, '{', 1, true) and not listening(waiter)
end

-- Tell the first who waits when what it waits for ends, in ms: it has relied on who was before it to look, and should
-- a holder be dead, nobody else would ask in time.
local function tell_next(queue, left)
  local entry = head_of(queue)
  if entry and left > 0 then
    tell(parsed(entry), 'next ' .. digits(left))
  end
end

-- Take those out of a queue, from its head, who wait where nobody listens (`silent`, by verb and channel), a hundred at
-- most: all waiters of a process listen at one place, and thousands may have died with it. Those of a Cluster may be at
-- another node: they ask again, and keep their places.
local function bury(queue, silent)
  local dead = {}
  for _, entry in ipairs(redis.call('ZRANGE', queue, 0, 99)) do
    local waiter = parsed(entry)
    if not silent[waiter.verb .. waiter.channel] then
      break
    end
    dead[#dead + 1] = entry
  end
  redis.call('ZREM', queue, unpack(dead))
  for _, entry in ipairs(dead) do
    local waiter = parsed(entry)
    if string.find(waiter.channel, '{', 1, true) then
      tell(waiter, 'next 1')
    end
  end
end

-- Hand on, in order, to those who wait and listen. `offer` says what there is for a waiter now: the token, the rest of
-- what it is told, a function that makes the grant true, and whether it is all there is; nothing, if that one must wait
-- on. Those ahead of `before` (a place) only, if one is given. A waiter that nobody hears for is gone, and passed over.
-- Return the longest of the claims in ms, or nil: by then somebody should look whether all that was handed on was taken.
local function serve(queue, offer, before)
  local now, soonest, longest, entry, place, second
  local silent = {}
  while true do
    entry, place, second = head_of(queue)
    if not entry or (before and place >= before) then
      break
    end
    now = now or micros()
    local waiter = parsed(entry)
    local where = waiter.verb .. waiter.channel
    silent[where] = silent[where] or elsewhere(waiter)
    if silent[where] then
      bury(queue, silent)
    else
      local token, note, give, all = offer(waiter, now)
      if not token then
        break
      end
      redis.call('ZREM', queue, entry) -- a write first: a replica must not tell anybody anything
      if all and second then
        -- Told before the grant is, because Redis writes first to whom it was told last; of use only if that is heard.
        local after = parsed(second)
        local there = after.verb .. after.channel
        if not silent[there] and tell(after, 'next ' .. waiter.claim) == 0 then
          silent[there] = true
        end
      end
      local heard = tell(waiter, table.concat({'grant', digits(token), digits(now), note}, ' '))
      if heard < 0 then
        redis.call('ZADD', queue, digits(place), entry) -- it keeps its place, and asks by itself
        break
      elseif heard == 0 then
        silent[where] = true
      else
        give(token)
        if all then
          return waiter.claim
        end
        soonest = math.min(soonest or waiter.claim, waiter.claim)
        longest = math.max(longest or waiter.claim, waiter.claim)
      end
    end
  end
  if soonest and entry then
    tell(parsed(entry), 'next ' .. soonest) -- should who is ahead be dead, nobody else would ask in time
  end
  return longest
end

-- Return the place that an asker has or would keep; nil if it does not wait, or is new.
local function place_of(queue, entry, place)
  if entry == '' then
    return nil
  end
  return tonumber(place) or tonumber(redis.call('ZSCORE', queue, entry) or nil)
end

-- Leave a queue. A waiter whose inbox moved has the entry of the old one there as well, at the same place.
local function leave(queue, entry, place)
  redis.call('ZREM', queue, entry)
  if place ~= '' then
    redis.call('ZREMRANGEBYSCORE', queue, place, place)
  end
end

-- Queue up, or keep the place that one has; return it, how many are ahead, and whether the channel is listened to.
local function enqueue(queue, entry, place, now)
  if place == '' then
    local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')[2]
    place = digits(math.max(now, (tonumber(last) or 0) + 1))
  elseif not redis.call('ZSCORE', queue, entry) then
    leave(queue, entry, place)
  end
  if redis.call('ZADD', queue, 'NX', place, entry) == 0 then
    place = redis.call('ZSCORE', queue, entry)
  end
  redis.call('PEXPIRE', queue, KEEP_QUEUE)
  return place, redis.call('ZRANK', queue, entry), listening(parsed(entry)) and 1 or 0
end

