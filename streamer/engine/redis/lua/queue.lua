-- The queue: the tenants take turns, and each has its order: by priority, then first come first served.
-- A lane has the waiting jobs that the same workers can run; so none looks at those of others.
local RING, LANES, DEPTHS, WAITS, WAITING_BYTES, RUNNING_OF, OWN_LIMITS
local HIGHEST = 10
local LEVEL = 2 ^ 44 -- more than there will be jobs; 20 of it are whole numbers to a double
local BLOCK = 64
local COUNTED = 256 -- so many tenants are looked at for one place; beyond, it is about right

on_root(function()
  RING, LANES, DEPTHS, WAITS = P .. 'ring', P .. 'lanes', P .. 'depths', P .. 'waits'
  WAITING_BYTES, RUNNING_OF = P .. 'waiting-bytes', P .. 'running-of'
  OWN_LIMITS = P .. 'own-limits'
end)

local function line_of(th) return P .. 'line:' .. th end
local function lanes_of(th) return P .. 'lanes-of:' .. th end
local function ring_in(lane) return P .. 'lane-ring:' .. lane end
local function line_in(lane, th) return P .. 'lane-line:' .. th .. ':' .. lane end

local function lane_of(id)
  local f = call('HMGET', job_key(id), 'session', 'backend', 'language', 'environment')
  return f[1] ~= '' and 'session\n' .. f[1] or table.concat(f, '\n', 2)
end

-- Keep the limits of a tenant, for calls that know its jobs only, and for workers: these need not be
-- told what tenants there are.
local function limits_kept(th)
  if C.own then
    local own = {running = C.running_of_one, bytes = C.bytes_of_one}
    call('HSET', OWN_LIMITS, th, cmsgpack.pack(own))
  else
    call('HDEL', OWN_LIMITS, th)
    call('HSET', SUM, 'running_of_one', C.running_of_one or '')
  end
end

-- Nil if it has none.
local function own_limits(th)
  local own = call('HGET', OWN_LIMITS, th)
  return own and cmsgpack.unpack(own)
end

local function weigh(th, size)
  add('waiting_bytes', size)
  count(WAITING_BYTES, th, size)
end

-- Note that a tenant has its `n`th waiting job, or has it no more.
local function deepen(n, by)
  count(DEPTHS, n, by)
  count(DEPTHS, 'block' .. math.floor((n - 1) / BLOCK), by)
end

-- Of a job that waits.
local function priority_of(th, id)
  return HIGHEST - math.floor(call('ZSCORE', line_of(th), id) / LEVEL)
end

-- Give a tenant the last turn of all.
local function to_the_end(th)
  local turn = add('turn', 1)
  call('ZADD', RING, turn, th)
  for _, lane in ipairs(call('SMEMBERS', lanes_of(th))) do call('ZADD', ring_in(lane), turn, th) end
end

-- A new tenant gets the last turn, but before the tenant that had one just now. A job that has waited
-- before may have its old `order`.
local function enqueue(th, id, weight, priority, order)
  if not call('ZSCORE', RING, th) then
    local last = call('ZRANGE', RING, -1, -1)[1]
    to_the_end(th)
    if last and last == call('HGET', SUM, 'served') then to_the_end(last) end
  end
  local lane = lane_of(id)
  order = order or exact((HIGHEST - priority) * LEVEL + add('seq', 1))
  call('ZADD', line_of(th), order, id)
  call('ZADD', line_in(lane, th), order, id)
  if call('SADD', lanes_of(th), lane) == 1 then
    call('ZADD', ring_in(lane), call('ZSCORE', RING, th), th)
    call('SADD', LANES, lane)
  end
  call('ZADD', WAITS, exact(now), id)
  deepen(call('ZCARD', line_of(th)), 1)
  add('waiting', 1)
  weigh(th, weight)
end

local function dequeue(th, id, weight)
  local lane = lane_of(id)
  deepen(call('ZCARD', line_of(th)), -1)
  call('ZREM', line_of(th), id)
  call('ZREM', line_in(lane, th), id)
  if call('EXISTS', line_in(lane, th)) == 0 then
    call('SREM', lanes_of(th), lane)
    call('ZREM', ring_in(lane), th)
    if call('EXISTS', ring_in(lane)) == 0 then call('SREM', LANES, lane) end
  end
  call('ZREM', WAITS, id)
  add('waiting', -1)
  weigh(th, -weight)
  if call('EXISTS', line_of(th)) == 0 then call('ZREM', RING, th) end
end

-- How many jobs have their turn in the first rounds.
local function in_rounds(rounds)
  if rounds == 0 then return 0 end
  local fields, whole, sum = {}, math.floor(rounds / BLOCK), 0
  for block = 0, whole - 1 do fields[#fields + 1] = 'block' .. block end
  for n = whole * BLOCK + 1, rounds do fields[#fields + 1] = n end
  for _, one in ipairs(call('HMGET', DEPTHS, unpack(fields))) do sum = sum + num(one) end
  return sum
end

-- Of the tenants before the one at `rank`, how many have more than `ahead` waiting jobs, if `deep`
-- of all others have.
local function before(rank, ahead, deep)
  if ahead == 0 then return rank end
  if rank == 0 or deep == 0 then return 0 end
  if rank > COUNTED then return math.floor(rank * deep / (call('ZCARD', RING) - 1) + 0.5) end
  local found = 0
  for _, th in ipairs(call('ZRANGE', RING, 0, rank - 1)) do
    if call('ZCARD', line_of(th)) > ahead then found = found + 1 end
  end
  return found
end

-- After how many claims a tenant has the turn for a job with so many of its own ahead, if no tenant
-- is held.
local function place_of(th, ahead)
  local rank, own = call('ZRANK', RING, th), call('ZCARD', line_of(th))
  if not rank then -- it has none yet
    local last = call('ZRANGE', RING, -1, -1)[1]
    return call('ZCARD', RING) + (last and last == call('HGET', SUM, 'served') and 0 or 1)
  end
  local deep = num(call('HGET', DEPTHS, ahead + 1)) - (own > ahead and 1 or 0)
  return in_rounds(ahead) + before(rank, ahead, deep) + 1
end

-- How many of its tenant's jobs would be ahead of a job with priority 0 that comes now.
local function ahead_of_new(th)
  return call('ZCOUNT', line_of(th), '-inf', '(' .. exact((HIGHEST + 1) * LEVEL))
end

-- The first waiting jobs in the order of their turns, and in the same order their tenants, and how
-- many of these are ahead of each.
local function in_order(most)
  local order, ths, aheads, going, ahead = {}, {}, {}, call('ZRANGE', RING, 0, most - 1), 0
  while #going > 0 and #order < most do
    local left = {}
    for _, th in ipairs(going) do
      local id = #order < most and call('ZRANGE', line_of(th), ahead, ahead)[1]
      if id then
        local n = #order + 1
        order[n], ths[n], aheads[n] = id, th, ahead
        left[#left + 1] = th
      end
    end
    going, ahead = left, ahead + 1
  end
  return order, ths, aheads
end
