-- What the workers ask.

local function held(id, token)
  local f = call('HMGET', job_key(id), 'token', 'result_kind')
  return f[1] == token and not f[2]
end

local REAPED_S = 600

function OPS.publish()
  local worker, places = ARGV[4], ARGV[6]
  if call('HGET', P .. 'capabilities', worker) ~= (ARGV[5] ~= '' and ARGV[5]) then
    ring('workers', '')
  end
  if ARGV[5] == '' then
    call('ZREM', P .. 'workers', worker)
    call('HDEL', P .. 'capabilities', worker)
    call('HDEL', P .. 'places', worker)
    call('HDEL', P .. 'claims', worker)
  else
    call('ZADD', P .. 'workers', exact(now + C.lease_s), worker)
    call('HSET', P .. 'capabilities', worker, ARGV[5])
    call('HSET', P .. 'places', worker, places)
  end
end

local function lease_of(id)
  local f = call('HMGET', job_key(id), 'token', 'accepted', 'cancelled', 'inbox', 'resize',
    'measures', 'attempt')
  local pending = (f[3] or num(f[4]) > 0 or f[5] or f[6]) and 1 or 0
  local input = call('EXISTS', P .. 'in:' .. id)
  return {
    id, f[1], exact(now - num(f[2])), call('GET', P .. 'spec:' .. id), pending, input,
    math.max(num(f[7]), 1),
  }
end

-- Whether a tenant has as many running jobs as it may.
local function is_held(th)
  local most = most_running(th)
  return most and num(call('HGET', RUNNING_OF, th)) >= most
end

-- The first tenant of a lane that is not held, and its turn: those that are have running jobs, so
-- there are few.
local function first_in(lane)
  local from = 0
  while true do
    local one = call('ZRANGE', ring_in(lane), from, from, 'WITHSCORES')
    if not one[1] or not is_held(one[1]) then return one[1], tonumber(one[2]) end
    from = from + 1
  end
end

local function may_take(lane, worker, accepts)
  local session = string.match(lane, '^session\n([^\n]*)$')
  if session then return session_takes(session, worker) end
  local backend, language, environment = string.match(lane, '^(.-)\n(.-)\n(.*)')
  return not accepts.backends or (accepts.backends[backend]
    and (language == '' or accepts.languages[language])
    and (environment == '' or accepts.environments[environment]))
end

-- The next job that a worker may run, of the first tenant in the ring that has one.
local function take(worker, accepts)
  local mine, next_th, next_turn = {}, nil, nil
  for _, lane in ipairs(call('SMEMBERS', LANES)) do
    if may_take(lane, worker, accepts) then
      mine[#mine + 1] = lane
      local th, turn = first_in(lane)
      if th and not (next_turn and turn > next_turn) then next_th, next_turn = th, turn end
    end
  end
  local next_id, next_order
  for _, lane in ipairs(next_th and mine or {}) do
    local one = call('ZRANGE', line_in(lane, next_th), 0, 0, 'WITHSCORES')
    local order = tonumber(one[2])
    if order and not (next_order and order > next_order) then next_id, next_order = one[1], order end
  end
  return next_th, next_id
end

function OPS.claim()
  local worker, number, node, free = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
  local accepts, tell = cmsgpack.unpack(ARGV[8]), ARGV[9] == '1'
  local last = call('HGET', P .. 'claims', worker)
  local leases = {}
  if last then
    -- The answer was lost: the same again, as far as it is not over.
    local words = {}
    for word in string.gmatch(last, '%S+') do words[#words + 1] = word end
    if tonumber(words[1]) > tonumber(number) then return {} end -- it was given up long ago
    if words[1] == number then
      for i = 2, #words, 2 do
        if held(words[i], words[i + 1]) then leases[#leases + 1] = lease_of(words[i]) end
      end
      return leases
    end
  end
  sessions_expire()
  local answer = {number}
  while #leases < free do
    local th, id = take(worker, accepts)
    if not id then break end
    local key = job_key(id)
    local f = call('HMGET', key, 'weight', 'session', 'created')
    local order = call('ZSCORE', line_of(th), id)
    dequeue(th, id, num(f[1]))
    if call('EXISTS', line_of(th)) == 1 then to_the_end(th) end
    call('HSET', SUM, 'served', th)
    count(RUNNING_OF, th, 1)
    call('ZADD', RUNNING, exact(now), id)
    call('ZADD', LEASES, exact(now + C.lease_s), id)
    -- Another's is never the same, even if the server goes on from an older state.
    local token = add('token', 1) .. '.' .. node .. '.' .. number
    call('HSET', key, 'token', token, 'node', node, 'started',
      exact(math.max(now, num(f[3]))), 'writes', 0, 'order', order)
    if f[2] ~= '' then
      call('ZREM', jobs_of(f[2]), id)
      call('HSET', session_key(f[2]), 'running', id)
    end
    leases[#leases + 1] = lease_of(id)
    answer[#answer + 1] = id
    answer[#answer + 1] = token
  end
  if #leases > 0 then
    call('HSET', P .. 'claims', worker, table.concat(answer, ' '))
    if tell then tell_places() end
  end
  return leases
end

function OPS.places() tell_places() end

-- Renew leases, which are pairs of job and token; tell which are lost or cancelled.
function OPS.beat()
  local told, renewed = {}, exact(now + C.lease_s)
  for i = 4, #ARGV, 2 do
    local id = ARGV[i]
    if held(id, ARGV[i + 1]) then
      call('ZADD', LEASES, renewed, id)
      told[#told + 1] = call('HGET', job_key(id), 'cancelled') and 'cancel' or ''
    else
      told[#told + 1] = 'lost'
    end
  end
  return told
end

-- Whether a job whose worker is lost waits again: its input is not kept once it is taken. Its end
-- alone can be given again.
local function may_run_again(id)
  local f = call('HMGET', job_key(id), 'retry', 'attempt', 'input_handed', 'cancelled', 'received')
  local taken = num(f[3]) > 0 and num(f[5]) > 0
  return num(f[1]) >= math.max(num(f[2]), 1) and not taken and not f[4]
end

-- Put a running job back to the place that it had, and say so in its log.
local function wait_again(id, reason, ran)
  local key = job_key(id)
  local f = call('HMGET', key, 'tenant_hash', 'weight', 'accepted', 'attempt', 'node',
    'signal_popped', 'signal_handed', 'order', 'input_ended')
  call('ZREM', RUNNING, id)
  call('ZREM', LEASES, id)
  count(RUNNING_OF, f[1], -1)
  if num(f[7]) > num(f[6]) then call('LPOP', P .. 'signals:' .. id) end
  if f[9] and call('EXISTS', P .. 'in:' .. id) == 0 then call('RPUSH', P .. 'in:' .. id, 'E') end
  call('HDEL', key, 'token', 'node', 'started', 'policy', 'signal_popped', 'signal_handed',
    'input_popped', 'input_handed')
  local attempt = math.max(num(f[4]), 1) + (ran and 1 or 0)
  enqueue(f[1], id, num(f[2]), 0, f[8])
  local place, wait = place_and_wait(forecast(), f[1], call('ZRANK', line_of(f[1]), id))
  local wait_ms = math.floor(wait * 1000)
  call('HSET', key, 'state', 'queued', 'attempt', attempt, 'place', place, 'wait_ms', wait_ms)
  -- As `streamer.model.events` encodes a Status.
  write(id, {'status', string.format(
    '{"state":"queued","t":%d,"position":%d,"estimatedWaitMs":%d%s,"reason":"%s"}',
    math.max(math.floor((now - num(f[3])) * 1000), 0), place, wait_ms,
    ran and ',"attempt":' .. attempt or '', reason)})
  if f[5] then ring('node:' .. f[5], 'job ' .. id) end
  ring('bell', '')
  bound(id)
end

-- What is done with a job whose worker is lost.
local function lose(id)
  if may_run_again(id) then
    wait_again(id, 'worker_lost', true)
  else
    end_job(id, {ARGV[4], ARGV[5]})
  end
end

-- The jobs of a node that is known to be gone: their leases need not end.
function OPS.gone()
  local node, lost = ARGV[6], 0
  for _, id in ipairs(call('ZRANGE', LEASES, 0, -1)) do
    if call('HGET', job_key(id), 'node') == node then
      lose(id)
      lost = lost + 1
    end
  end
  return lost
end

-- Take jobs from workers that are lost. A repetition tells again of those that the call before has
-- ended, since its answer may be lost.
function OPS.reap()
  local told, number = P .. 'reaped:' .. ARGV[6], ARGV[7]
  local before = call('GET', told) or ''
  expire(1000)
  sessions_expire()
  if ARGV[8] == '1' then tell_places() end -- of a queue that stands still the estimates change
  local lost = C.may_reap
    and call('ZRANGEBYSCORE', LEASES, '-inf', exact(now), 'LIMIT', 0, 100) or {}
  for _, id in ipairs(lost) do lose(id) end
  local ended = {number}
  for i, id in ipairs(ENDED_JOBS) do ended[i + 1] = id end
  if string.match(before, '^%S*') == number then
    for id in string.gmatch(before, ' (%S+)') do
      if call('EXISTS', job_key(id)) == 1 then
        HEARD[#HEARD + 1], ended[#ended + 1] = view(id), id
      end
    end
  end
  -- All of them: the answer of this call may be lost, too.
  if #ENDED_JOBS > 0 then call('SET', told, table.concat(ended, ' '), 'EX', REAPED_S) end
  return #lost
end

-- Append events under a lease, and perhaps the state and the policy of the job.
function OPS.append()
  local id, token, number, state, policy = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
  local key = job_key(id)
  local f = call('HMGET', key, 'token', 'result_kind', 'writes')
  if f[1] ~= token or f[2] then return 'lost' end
  if number <= num(f[3]) then return 'ok' end
  call('HSET', key, 'writes', number)
  if state ~= '' then call('HSET', key, 'state', state) end
  if policy ~= '' then call('HSET', key, 'policy', policy) end
  write(id, rest(9))
  bound(id)
  return 'ok'
end

function OPS.finish()
  local id, token, number = ARGV[4], ARGV[5], ARGV[6]
  local files, file_ids, files_size = ARGV[7], ARGV[8], tonumber(ARGV[9])
  local f = call('HMGET', job_key(id), 'token', 'result_kind', 'finished_by')
  if f[1] ~= token then return 0 end
  if f[2] and f[3] == number then HEARD[1] = view(id) end -- the first answer was lost
  if f[2] then return f[3] == number and 2 or 0 end
  call('HSET', job_key(id), 'finished_by', number)
  call('HDEL', job_key(id), 'node')
  end_job(id, rest(10), files, file_ids, files_size)
  return 1
end

local function started(id)
  local state = call('HGET', job_key(id), 'state')
  return state == 'compiling' or state == 'running'
end

-- Let a job wait again: one that has not started, or `ran` and may run again. Not if nobody else
-- takes jobs.
function OPS.release()
  local id, token, ran = ARGV[4], ARGV[5], ARGV[6] == '1'
  if not held(id, token) or not any_of('takers') then return 0 end
  local f = call('HMGET', job_key(id), 'session', 'cancelled')
  if f[1] ~= '' or f[2] then return 0 end
  if ran and not may_run_again(id) or not ran and started(id) then return 0 end
  wait_again(id, 'shutting_down', ran)
  return 1
end

-- The next item of a list for a lease that has `got` of them: an item is there until the next is
-- asked for, but leaves its room at once.
local function next_item(id, list, field, got)
  local key = job_key(id)
  local f = call('HMGET', key, field .. '_popped', field .. '_handed')
  local popped, handed = num(f[1]), num(f[2])
  while popped < got do
    call('LPOP', list)
    popped = popped + 1
  end
  local item = call('LINDEX', list, 0)
  if item and handed < got + 1 then
    handed = got + 1
    local size = ITEM
    if field == 'input' then size = item:sub(1, 1) == 'E' and 0 or ITEM + #item - 1 end
    plus(key, 'inbox', -size)
  end
  call('HSET', key, field .. '_popped', popped, field .. '_handed', handed)
  return item
end

function OPS.input()
  local id, token, got = ARGV[4], ARGV[5], tonumber(ARGV[6])
  if not held(id, token) then return {'over'} end
  if not started(id) then return {'wait'} end
  local item = next_item(id, P .. 'in:' .. id, 'input', got)
  return item and {'item', item} or {'wait'}
end

function OPS.control()
  local id, token = ARGV[4], ARGV[5]
  local got, resizes, measures = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
  if not held(id, token) then return {'over'} end
  local f = call('HMGET', job_key(id), 'cancelled', 'resize', 'resizes', 'measures')
  local answer = {'held', f[1] and 1 or 0, resizes, measures, false, false}
  if not started(id) then return answer end
  if num(f[3]) > resizes then
    answer[3], answer[5] = num(f[3]), f[2]
  elseif num(f[4]) > measures then
    answer[4] = num(f[4])
  else
    answer[6] = next_item(id, P .. 'signals:' .. id, 'signal', got)
  end
  return answer
end

-- Tell those who listen what a job uses; it is kept nowhere.
function OPS.usage()
  if not held(ARGV[4], ARGV[5]) then return 'lost' end
  return call('SPUBLISH', P .. 'usage:' .. ARGV[4], ARGV[6])
end
