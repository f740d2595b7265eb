"""What Redis does about limits, in Lua, each time for many items at once.

An account is a hash. Windows, by Redis' own clock, are packed: period, slice, total, and what was
taken in each slice, as `gateway.limits.accounts` has it.

    q, t             windows of requests and of tokens
    c, r             requests under way, and nanodollars that are reserved for them
    c:W, r:W         those of worker W among them
    D, d, M, m       when the day and the month began, and the nanodollars spent in them
    S, ok            what ended before S comes from the store; has come where ok is the same
    D0, d0, M0, m0   until it has: what of d and m is of before S

A worker is a hash too, `g` its round and `s` the last settling that it sent. It says anew what it
has under way in each round: after its connection broke, or when it was taken for dead; what an
earlier round still sends is not heard. A settling that was sent twice is counted once. `alive` is a
sorted set of workers by when they were last heard of; what one that is dead, or in it no more, had
under way is dropped when somebody would be refused for it.
"""

DEAD_S = 10
"""Seconds after which a worker that was not heard of counts as dead."""

_COMMON = f"""
local SLICES, DEAD, KEEP = 30, {DEAD_S}, 3456000
"""

_COMMON += """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local call = redis.call

local function window(packed, per)
  local step = per / SLICES
  local at = math.floor(now / step)
  local w = packed and cmsgpack.unpack(packed)
  if not w or w[1] ~= per or at - w[2] > SLICES then
    w = {per, at, 0}
    for i = 4, SLICES + 4 do w[i] = 0 end
    return w
  end
  for slice = w[2] + 1, at do
    local place = 4 + slice % (SLICES + 1)
    w[3] = w[3] - w[place]
    w[place] = 0
  end
  w[2] = math.max(at, w[2])
  return w
end

local function take(w, count)
  local place = 4 + w[2] % (SLICES + 1)
  w[place] = w[place] + count
  w[3] = w[3] + count
end

local function wait_ms(w, count, limit)
  local over, step, slice = w[3] + count - limit, w[1] / SLICES, w[2] - SLICES
  while slice <= w[2] and over > 0 do
    over = over - w[4 + slice % (SLICES + 1)]
    slice = slice + 1
  end
  return math.max(0, math.ceil(((slice + SLICES) * step - now) * 1000))
end

local function hold(account, worker, running, reserved)
  local had = call('HMGET', account, 'c', 'r', 'c:' .. worker, 'r:' .. worker)
  local all = (tonumber(had[1]) or 0) - (tonumber(had[3]) or 0) + running
  local all_reserved = (tonumber(had[2]) or 0) - (tonumber(had[4]) or 0) + reserved
  if running == 0 and reserved == 0 then
    call('HSET', account, 'c', all, 'r', all_reserved)
    call('HDEL', account, 'c:' .. worker, 'r:' .. worker)
  else
    call('HSET', account, 'c', all, 'r', all_reserved,
      'c:' .. worker, running, 'r:' .. worker, reserved)
  end
  return all, all_reserved
end

local unpacked = {}

local function read(packed)
  local value = unpacked[packed]
  if not value then
    value = cmsgpack.unpack(packed)
    unpacked[packed] = value
  end
  return value
end

local function each(serve)
  local replies, at = {}, 1
  while at <= #ARGV do
    local count = tonumber(ARGV[at])
    replies[#replies + 1] = serve(at + 1, at + count)
    at = at + count + 1
  end
  return replies
end
"""

HELLO = (
    _COMMON
    + """
-- alive, worker's hash, worker, round, then: account, under way, reserved
return each(function(from, to)
  local alive, hash, worker, round = unpack(ARGV, from, from + 3)
  if (tonumber(call('HGET', hash, 'g')) or 0) > tonumber(round) then return 0 end
  call('HSET', hash, 'g', round)
  call('EXPIRE', hash, 86400)
  call('ZADD', alive, now, worker)
  for i = from + 4, to, 3 do
    hold(ARGV[i], worker, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
  end
  return call('ZCOUNT', alive, now - DEAD, '+inf')
end)
"""
)

BEAT = (
    _COMMON
    + """
-- alive, worker's hash, worker, round: how many are alive, or 0 for one that must say hello again
return each(function(from, to)
  local alive, hash, worker, round = unpack(ARGV, from, to)
  local last = tonumber(call('ZSCORE', alive, worker) or '0')
  if call('HGET', hash, 'g') ~= round or now - last > DEAD then return 0 end
  call('ZADD', alive, now, worker)
  call('ZREMRANGEBYSCORE', alive, '-inf', now - 86400)
  call('EXPIRE', hash, 86400)
  return call('ZCOUNT', alive, now - DEAD, '+inf')
end)
"""
)

ADMIT = (
    _COMMON
    + """
local rounds = {}

local buried = {}

local function bury(alive, account, living, running, reserved)
  if buried[account] then return running, reserved end
  buried[account] = true
  for _, field in ipairs(call('HKEYS', account)) do
    local worker = field:match('^c:(.*)')
    if worker and worker ~= living then
      local heard = tonumber(call('ZSCORE', alive, worker) or '0')
      if now - heard > DEAD then running, reserved = hold(account, worker, 0, 0) end
    end
  end
  return running, reserved
end

-- packed {alive, worker's hash, worker, round, day, month, S if there is none}, tokens,
-- nanodollars, then of each account packed {key, requests, their seconds, tokens, their seconds, at
-- once, a day, a month}, each below 0 where there is no limit
-- {1, for each account: requests, tokens, slice, spent in the day, in the month}, or
-- {0, account, what, used, ms to wait}, or {-1, account, S, ...} where the store is to be asked, or
-- {-2} where the worker must say hello
return each(function(from, to)
  local alive, hash, worker, round, day, month, since = unpack(read(ARGV[from]))
  if rounds[hash] == nil then rounds[hash] = tonumber(call('HGET', hash, 'g') or '0') end
  if rounds[hash] ~= round then return {-2} end
  local tokens, nano = tonumber(ARGV[from + 1]), tonumber(ARGV[from + 2])
  local seen, unknown = {}, {-1}
  for i = from + 3, to do
    local limits = read(ARGV[i])
    local account = limits[1]
    local h = call('HMGET', account, 'q', 't', 'c', 'r', 'D', 'd', 'M', 'm', 'S', 'ok',
      'c:' .. worker, 'r:' .. worker)
    local a = {account = account, running = tonumber(h[3]) or 0, reserved = tonumber(h[4]) or 0,
      mine = tonumber(h[11]) or 0, my_reserved = tonumber(h[12]) or 0,
      d = tonumber(h[5]) == day and tonumber(h[6]) or 0,
      m = tonumber(h[7]) == month and tonumber(h[8]) or 0}
    seen[#seen + 1] = a
    local most = {limits[2], limits[4], limits[6], limits[7], limits[8]}
    if (most[4] >= 0 or most[5] >= 0) and not h[10] then
      if not h[9] then
        since = math.min(since, math.floor(now) + 1)
        call('HSET', account, 'S', string.format('%d', since))
        call('EXPIRE', account, KEEP)
      end
      unknown[#unknown + 1] = account
      unknown[#unknown + 1] = tonumber(h[9]) or since
    end
    if most[1] >= 0 then
      a.q = window(h[1], limits[3])
      if a.q[3] + 1 > most[1] then
        return {0, #seen, 'requests', a.q[3], wait_ms(a.q, 1, most[1])}
      end
    end
    if most[2] >= 0 then
      a.t = window(h[2], limits[5])
      if a.t[3] + tokens > most[2] then
        return {0, #seen, 'tokens', a.t[3], wait_ms(a.t, tokens, most[2])}
      end
    end
    local function over()
      if most[3] >= 0 and a.running >= most[3] then return 'concurrent', a.running end
      local day_held, month_held = a.d + a.reserved, a.m + a.reserved
      if most[4] >= 0 and day_held + nano > most[4] then return 'day', day_held end
      if most[5] >= 0 and month_held + nano > most[5] then return 'month', month_held end
    end
    local what, used = over()
    if what then
      a.running, a.reserved = bury(alive, account, worker, a.running, a.reserved)
      what, used = over()
    end
    if what then
      return {0, #seen, what, used, 0, a.d, a.m}
    end
  end
  if #unknown > 1 then return unknown end
  local reply = {1}
  for _, a in ipairs(seen) do
    local put = {'c', a.running + 1, 'r', a.reserved + nano,
      'c:' .. worker, a.mine + 1, 'r:' .. worker, a.my_reserved + nano}
    local requests, taken, slice = 0, 0, 0
    if a.q then
      take(a.q, 1)
      put[#put + 1] = 'q'
      put[#put + 1] = cmsgpack.pack(a.q)
      requests = a.q[3]
    end
    if a.t then
      take(a.t, tokens)
      put[#put + 1] = 't'
      put[#put + 1] = cmsgpack.pack(a.t)
      taken, slice = a.t[3], a.t[2]
    end
    call('HSET', a.account, unpack(put))
    for _, value in ipairs({requests, taken, slice, a.d, a.m}) do reply[#reply + 1] = value end
  end
  return reply
end)
"""
)

SETTLE = (
    _COMMON
    + """
local function spend(account, when, what, period, nano)
  local had = call('HMGET', account, when, what)
  local before = tonumber(had[1]) or 0
  if before == period then
    call('HSET', account, what, (tonumber(had[2]) or 0) + nano)
  elseif before < period then
    call('HSET', account, when, period, what, nano)
  end
end

-- worker's hash, worker, round, number, then packed, of each account: {key, how many ended (below
-- 0: began), what was reserved for them, the seconds of its token rate, {{slice, given back (or
-- taken, below 0)}, ...}, {{second, spent in it, day, month}, ...}}. 1, or -2 for hello first
return each(function(from, to)
  local hash, worker, round, number, packed = unpack(ARGV, from, to)
  local known = call('HMGET', hash, 'g', 's')
  if known[1] ~= round then return -2 end
  if (tonumber(known[2]) or 0) >= tonumber(number) then return 1 end
  for _, entry in ipairs(cmsgpack.unpack(packed)) do
    local account, ended, freed, per, slices, seconds = unpack(entry)
    local h = call('HMGET', account, 'c:' .. worker, 'r:' .. worker, 't', 'S', 'ok')
    if ended ~= 0 or freed ~= 0 then
      hold(account, worker, math.max(0, (tonumber(h[1]) or 0) - ended),
        math.max(0, (tonumber(h[2]) or 0) - freed))
    end
    if #slices > 0 then
      local w = window(h[3], per)
      for _, given in ipairs(slices) do
        local slice, back = given[1], given[2]
        if back < 0 then
          take(w, -back)
        elseif slice >= w[2] - SLICES and slice <= w[2] then
          local place = 4 + slice % (SLICES + 1)
          back = math.min(back, w[place])
          w[place] = w[place] - back
          w[3] = w[3] - back
        end
      end
      call('HSET', account, 't', cmsgpack.pack(w))
    end
    local since, come = tonumber(h[4]), h[5] == h[4]
    for _, spent in ipairs(seconds) do
      local second, nano, day, month = unpack(spent)
      if since and (second >= since or not come) then
        spend(account, 'D', 'd', day, nano)
        spend(account, 'M', 'm', month, nano)
        if second < since then
          spend(account, 'D0', 'd0', day, nano)
          spend(account, 'M0', 'm0', month, nano)
        end
      end
    end
    call('EXPIRE', account, KEEP)
  end
  call('HSET', hash, 's', number)
  return 1
end)
"""
)

SEED = (
    _COMMON
    + """
local function raise(account, when, what, period, spent)
  local h = call('HMGET', account, when, what, when .. '0', what .. '0')
  if (tonumber(h[1]) or 0) > tonumber(period) then return end
  local counted = h[1] == period and tonumber(h[2]) or 0
  local of_before = h[3] == period and tonumber(h[4]) or 0
  call('HSET', account, when, period, what, counted + math.max(0, spent - of_before))
end

-- account, S, day, spent in it, month, spent in it: of what ended before S. What was counted of
-- that is never made less: the log may be kept for less than a month
return each(function(from, to)
  local account, since, day, d, month, m = unpack(ARGV, from, to)
  local known = call('HMGET', account, 'S', 'ok')
  if known[1] ~= since or known[2] == since then return 0 end
  raise(account, 'D', 'd', day, d)
  raise(account, 'M', 'm', month, m)
  call('HSET', account, 'ok', since)
  call('HDEL', account, 'D0', 'd0', 'M0', 'm0')
  return 1
end)
"""
)

CLAIM = (
    _COMMON
    + """
-- account, S, unless there is a later one: that, or 0 where what ended before it has come already.
-- A worker whose clock is ahead would have nothing counted until then: none is later than now
return each(function(from, to)
  local account, since = unpack(ARGV, from, to)
  since = string.format('%d', math.min(tonumber(since), math.floor(now) + 1))
  local h = call('HMGET', account, 'S', 'ok', 'D', 'd', 'M', 'm')
  local last = tonumber(h[1]) or 0
  if last >= tonumber(since) then return h[1] == h[2] and 0 or last end
  call('HSET', account, 'S', since,
    'D0', h[3] or 0, 'd0', h[4] or 0, 'M0', h[5] or 0, 'm0', h[6] or 0)
  call('EXPIRE', account, KEEP)
  return tonumber(since)
end)
"""
)

LOOK = (
    _COMMON
    + """
-- account, requests' seconds, tokens' seconds, day, month: requests, tokens, under way, reserved,
-- spent in the day, in the month
return each(function(from, to)
  local account, requests, tokens, day, month = unpack(ARGV, from, to)
  local h = call('HMGET', account, 'q', 't', 'c', 'r', 'D', 'd', 'M', 'm')
  return {
    requests ~= '0' and window(h[1], tonumber(requests))[3] or 0,
    tokens ~= '0' and window(h[2], tonumber(tokens))[3] or 0,
    tonumber(h[3]) or 0, tonumber(h[4]) or 0,
    h[5] == day and tonumber(h[6]) or 0, h[7] == month and tonumber(h[8]) or 0}
end)
"""
)
