-- The records of jobs: their end, and what is kept of them afterwards.
local RUNNING, LEASES, DONE, KEYS_OF, GONE, GONE_DIGESTS
local RUNS = 64
local VIEW = {
  'facts', 'policy', 'tenant', 'state', 'created', 'started', 'finished', 'first_output',
  'result_kind', 'result',
}

on_root(function()
  RUNNING, LEASES, DONE = P .. 'running', P .. 'leases', P .. 'done'
  KEYS_OF, GONE, GONE_DIGESTS = P .. 'keys', P .. 'gone', P .. 'gone-digests'
end)

local function view(id) return call('HMGET', job_key(id), unpack(VIEW)) end

local function key_dropped(name)
  local th = call('HGET', P .. 'gone-tenants', name)
  call('ZREM', GONE, name)
  call('HDEL', GONE_DIGESTS, name)
  call('HDEL', P .. 'gone-tenants', name)
  if th then call('ZREM', P .. 'gone-of:' .. th, name) end
end

-- Remember a key whose job is gone; a tenant with more than half of them loses its own oldest.
local function key_remembered(th, name, digest, until_)
  local own = P .. 'gone-of:' .. th
  call('ZADD', GONE, exact(until_), name)
  call('ZADD', own, exact(until_), name)
  call('HSET', GONE_DIGESTS, name, digest)
  call('HSET', P .. 'gone-tenants', name, th)
  while call('ZCARD', GONE) > C.keys do
    key_dropped(call('ZRANGE', call('ZCARD', own) * 2 > C.keys and own or GONE, 0, 0)[1])
  end
end

local function forget(id)
  local f = call('HMGET', job_key(id), 'tenant_hash', 'log', 'record', 'key', 'digest', 'accepted',
    'file_ids')
  call('UNLINK', job_key(id), log_key(id))
  call('ZREM', DONE, id)
  if not f[1] then return end
  call('ZREM', P .. 'of:' .. f[1], id)
  add('log', -num(f[2]))
  add('records', -num(f[3]))
  add('jobs', -1)
  if f[4] then
    call('HDEL', KEYS_OF, f[4])
    if num(f[6]) + C.key_s > now then key_remembered(f[1], f[4], f[5], num(f[6]) + C.key_s) end
  end
  for blob in string.gmatch(f[7] or '', '%S+') do blob_dropped(blob) end
  ring('log:' .. id, 'gone')
end

local function expire(most)
  for _ = 1, most do
    local id = call('ZRANGE', DONE, 0, 0)[1]
    if not id or num(call('HGET', job_key(id), 'until')) > now then break end
    forget(id)
  end
  for _, name in ipairs(call('ZRANGEBYSCORE', GONE, '-inf', exact(now), 'LIMIT', 0, most)) do
    key_dropped(name)
  end
  blobs_expire(most)
end

-- Whether there is such a job, which has not expired.
local function known(id)
  expire(20)
  local f = call('HMGET', job_key(id), 'state', 'until')
  return f[1] and not (f[2] and tonumber(f[2]) <= now)
end

-- Bring everything within its limits after an append to a log.
local function bound(id)
  local size = num(call('HGET', job_key(id), 'log'))
  if size > C.log_bytes then drop_events(id, size - C.log_bytes + C.log_bytes / 8) end
  local function excess()
    local f = call('HMGET', SUM, 'log', 'records')
    return num(f[1]) + num(f[2]) - C.kept_bytes
  end
  local more = excess()
  for _ = 1, 100 do
    -- The newest stays: its caller may wait for it.
    if more <= 0 or call('ZCARD', DONE) <= 1 then break end
    forget(call('ZRANGE', DONE, 0, 0)[1])
    more = excess()
  end
  if more > 0 then drop_events(id, more + C.kept_bytes / 16) end
end

-- End a job with these events, the last of which is terminal, and the files that it left.
local function end_job(id, events, files, file_ids, files_size)
  local key = job_key(id)
  local f = call('HMGET', key, 'tenant_hash', 'weight', 'record', 'session', 'blob', 'node',
    'webhook')
  local claimed = call('ZSCORE', RUNNING, id)
  if claimed then
    call('ZREM', RUNNING, id)
    call('ZREM', LEASES, id)
    count(RUNNING_OF, f[1], -1)
    call('LPUSH', P .. 'runs', exact(now - claimed))
    call('LTRIM', P .. 'runs', 0, RUNS - 1)
    -- Its tenant may have another job that waits for this place.
    if call('EXISTS', RING) == 1 then ring('bell', '') end
  else
    dequeue(f[1], id, num(f[2]))
  end
  local kind, result = events[#events - 1], events[#events]
  local record = num(f[3]) + #result + (files_size or 0)
  call('HSET', key, 'state', kind, 'result_kind', kind, 'result', result, 'finished', exact(now),
    'until', exact(now + C.keep_s), 'record', record)
  call('HDEL', key, 'cancel_event', 'resize', 'order')
  if files and files ~= '' then call('HSET', key, 'files', files, 'file_ids', file_ids) end
  call('UNLINK', P .. 'spec:' .. id, P .. 'in:' .. id, P .. 'signals:' .. id)
  add('records', record)
  call('ZADD', DONE, add('ends', 1), id)
  write(id, events)
  if f[6] then ring('node:' .. f[6], 'job ' .. id) end
  for blob in string.gmatch(file_ids or '', '%S+') do blob_adopted(blob) end
  if f[5] and f[5] ~= '' then blob_released(f[5]) end
  if f[4] and f[4] ~= '' then session_job_ended(f[4], id) end
  if f[7] then HOOK.begin(id, f[1], f[7], kind, view(id)) end
  HEARD[#HEARD + 1], ENDED_JOBS[#ENDED_JOBS + 1] = view(id), id
  bound(id)
  expire(20)
end

-- End a job that waits, or ask the worker of one that runs.
function cancel_job(id)
  local f = call('HMGET', job_key(id), 'state', 'result_kind', 'token', 'node', 'cancel_event',
    'attempt')
  if not f[1] or f[2] then return end
  if f[3] then
    call('HSET', job_key(id), 'cancelled', 1)
    ring('node:' .. f[4], 'job ' .. id)
  else
    -- It was encoded for the first attempt, which is not in it; this is its last field.
    local attempts = num(f[6]) > 1 and ',"attempts":' .. f[6] .. '}' or '}'
    end_job(id, {'complete', f[5]:sub(1, -2) .. attempts})
  end
end
