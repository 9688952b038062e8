-- Tell waiting jobs their places, and how long they wait, as these change.
local MAX_PLACES_TOLD = 100
local LEAST_MS = 1000 -- a wait is told again once it has doubled or halved, and by more than this
local AT_ONCE = 150 -- the next jobs, each time; of the others so many, in turns

local function tell_place(id, place, wait_ms, accepted)
  local t = math.max(math.floor((now - num(accepted)) * 1000), 0)
  call('HSET', job_key(id), 'place', place, 'wait_ms', wait_ms)
  call('HINCRBY', job_key(id), 'told', 1)
  -- As `streamer.model.events` encodes a Status; ids need no escapes.
  write(id, {'status', string.format(
    '{"state":"queued","t":%d,"position":%d,"estimatedWaitMs":%d,"jobId":"%s"}',
    t, place, wait_ms, id)})
end

-- Tell a job its place if that has changed by a tenth, or its wait has changed much.
local function tell_if_far(id, place, wait)
  local f = call('HMGET', job_key(id), 'place', 'told', 'accepted', 'wait_ms')
  if num(f[2]) >= MAX_PLACES_TOLD then return end
  local last, last_ms, wait_ms = num(f[1]), num(f[4]), math.floor(wait * 1000)
  if math.abs(place - last) * 10 >= math.max(place, last)
    or math.abs(wait_ms - last_ms) > math.min(wait_ms, last_ms) + LEAST_MS then
    tell_place(id, place, wait_ms, f[3])
  end
end

-- Tell `most` jobs of a tenant at most, behind the first `from`; return how many were looked at.
local function tell_line(known, th, from, most)
  local ids = call('ZRANGE', line_of(th), from, from + most - 1)
  if #ids == 0 then return 0 end
  local fields = {}
  for n = 1, #ids do fields[n] = from + n end
  local depths = call('HMGET', DEPTHS, unpack(fields))
  local rank, others = call('ZRANK', RING, th), call('ZCARD', RING) - 1
  local rounds = in_rounds(from)
  for n, id in ipairs(ids) do
    local share = from + n == 1 and 1 or others > 0 and (num(depths[n]) - 1) / others or 0
    local place = rounds + math.floor(rank * share + 0.5) + 1
    -- Those before were told theirs, which are exact.
    if place > AT_ONCE then tell_if_far(id, place, wait_of(known, th, from + n - 1, place)) end
    rounds = rounds + num(depths[n])
  end
  return #ids
end

-- Go on where the last call ended: within the line of a tenant, then with those who have later turns
-- than it had.
local function tell_some(known)
  local f = call('HMGET', SUM, 'told_turn', 'told_of', 'told_from')
  local turn, th, from, left = f[1] or '0', f[2] ~= '' and f[2], num(f[3]), AT_ONCE
  local ring, at = {}, -1
  while left > 0 do
    if th then
      local looked = tell_line(known, th, from, left)
      from, left = from + looked, left - looked
    end
    if left > 0 then
      if at < 0 then
        ring, at = call('ZRANGE', RING, '(' .. turn, '+inf', 'BYSCORE', 'LIMIT', 0, left,
          'WITHSCORES'), 1
      end
      th, turn, from, at = ring[at], ring[at + 1] or '0', 0, at + 2
      if not th then break end
    end
  end
  call('HSET', SUM, 'told_turn', turn, 'told_of', th or '', 'told_from', from)
end

local function tell_places()
  local known, order, ths, aheads = forecast(), in_order(AT_ONCE)
  for place, id in ipairs(order) do
    tell_if_far(id, place, wait_of(known, ths[place], aheads[place], place))
  end
  if num(call('HGET', SUM, 'waiting')) > AT_ONCE then tell_some(known) end
end
