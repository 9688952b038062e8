-- How long jobs wait, by the duration of the last ones, and who is refused.

-- How many jobs all workers run at a time.
local function all_places()
  if not PLACES then
    PLACES = 0
    for _, of_one in ipairs(call('HVALS', P .. 'places')) do PLACES = PLACES + num(of_one) end
    if PLACES == 0 then PLACES = C.places end
  end
  return PLACES
end

-- What is known now: how long a job runs, how many run at a time, and whether all places are taken.
local function forecast()
  local places = all_places()
  local since_of = P .. 'running'
  local running, sum, looked = call('ZCARD', since_of), 0, 0
  -- Some 64 of them are enough for a mean.
  for at = 0, running - 1, math.max(math.floor(running / 64), 1) do
    local since = call('ZRANGE', since_of, at, at, 'WITHSCORES')[2]
    sum, looked = sum + math.max(now - tonumber(since), 0), looked + 1
  end
  -- Running jobs that are older than the mean show that it is too low.
  local mean, took, runs = sum / math.max(looked, 1), 0, call('LRANGE', P .. 'runs', 0, -1)
  for _, one in ipairs(runs) do took = took + tonumber(one) end
  if #runs > 0 then mean = math.max(mean, took / #runs) end
  return {run_s = mean, places = places, busy = running >= places}
end

-- How long `jobs` of them take to get a place.
local function wait_s(known, jobs) return known.busy and jobs * known.run_s / known.places or 0 end

-- How many jobs of a tenant may run; nil if that has no limit. 0 is kept for all places but one.
local function most_running(th)
  local own, most = own_limits(th), C.running_of_one
  local kept = not own and call('HGET', SUM, 'running_of_one')
  if own then most = own.running elseif kept then most = tonumber(kept) end
  if most == 0 then return math.max(all_places() - 1, 1) end
  return most
end

-- How long a job waits that is at a place, with so many of its tenant's ahead.
local function wait_of(known, th, ahead, place)
  local wait, most = wait_s(known, place), most_running(th)
  if not most then return wait end
  local over = num(call('HGET', RUNNING_OF, th)) + ahead + 1 - most
  return math.max(wait, over * known.run_s / math.min(most, known.places))
end

-- The place of a job, and how long it waits.
local function place_and_wait(known, th, ahead)
  local place = place_of(th, ahead)
  return place, wait_of(known, th, ahead, place)
end

-- What a refusal tells of the queue.
local function full(th)
  local own = call('ZCARD', line_of(th))
  local waiting = num(call('HGET', SUM, 'waiting'))
  return {
    'full', waiting, own, num(call('HGET', SUM, 'waiting_bytes')),
    num(call('HGET', WAITING_BYTES, th)), exact(wait_s(forecast(), 1)),
  }
end

local function no_room_for(th, weight)
  local own = own_limits(th)
  local of_one = (own or {bytes = C.bytes_of_one}).bytes or C.max_bytes
  return weight > math.min(of_one, C.max_bytes)
    or num(call('HGET', SUM, 'waiting_bytes')) + weight > C.max_bytes
    or num(call('HGET', WAITING_BYTES, th)) + weight > of_one
end

local function no_room(th, weight)
  return num(call('HGET', SUM, 'waiting')) >= C.max_waiting
    or (C.waiting_of_one and call('ZCARD', line_of(th)) >= C.waiting_of_one)
    or no_room_for(th, weight)
end
