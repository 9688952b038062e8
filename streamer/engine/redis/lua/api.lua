-- What the API half asks.

-- The job of a key, or why it cannot be told; nil for a new key.
local function job_of_key(name, digest)
  expire(20)
  local id = call('HGET', KEYS_OF, name)
  if id then
    if call('HGET', job_key(id), 'digest') ~= digest then return {'conflict'} end
    return {'job', id}
  end
  local gone = call('HGET', GONE_DIGESTS, name)
  if gone then return {gone == digest and 'gone' or 'conflict'} end
end

function OPS.repeated() return job_of_key(ARGV[4], ARGV[5]) or {'new'} end

function OPS.submit()
  local a, facts, spec, cancel_event = cmsgpack.unpack(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
  local digest, tenant = ARGV[8], ARGV[9]
  local id, th, key = a.id, a.tenant_hash, job_key(a.id)
  local first = a.key ~= '' and job_of_key(a.key, digest)
  if not first and known(id) then first = {'job', id} end
  -- A repetition, because the answer was lost, gets the answer of the first call.
  if first and first[2] == id and ARGV[10] == '1' then return {'created', id} end
  if first then return first end
  if a.draining then return {'draining'} end
  limits_kept(th)
  if no_room(th, a.weight) then return full(th) end
  local webhooks_full = a.webhook and HOOK.full(th, a.webhook_size)
  if webhooks_full then return webhooks_full end
  if a.session ~= '' then
    local refused = session_refusal(a.session)
    if refused then return refused end
  end
  if a.blob ~= '' and not blob_held(a.blob) then return {'no_project'} end
  local priority = a.priority
  if a.session ~= '' then
    -- Its jobs keep their order.
    local before = call('ZRANGE', jobs_of(a.session), -1, -1)[1]
    if before then priority = math.min(priority, priority_of(th, before)) end
  end
  -- Later than every other, even if the clock was set back: lists are sorted by it.
  local created = math.max(now, num(call('HGET', SUM, 'created')) + 0.000001)
  call('HSET', SUM, 'created', exact(created))
  call('HSET', key, 'tenant', tenant, 'tenant_hash', th, 'facts', facts, 'state', 'queued',
    'accepted', exact(now), 'created', exact(created), 'weight', a.weight, 'record', a.record,
    'backend', a.backend, 'language', a.language, 'environment', a.environment,
    'session', a.session, 'blob', a.blob, 'interactive', a.interactive, 'terminal', a.terminal,
    'cancel_event', cancel_event, 'n', 0, 'first', 1)
  if a.retry > 0 then call('HSET', key, 'retry', a.retry) end
  if a.key ~= '' then
    call('HSET', key, 'key', a.key, 'digest', digest)
    call('HSET', KEYS_OF, a.key, id)
  end
  if a.webhook then
    call('HSET', key, 'webhook', cmsgpack.pack(a.webhook))
    HOOK.counted(th, 1, a.webhook_size)
    HOOK.show(id, 'waiting', 0)
  end
  call('SET', P .. 'spec:' .. id, spec)
  call('ZADD', P .. 'of:' .. th, exact(created), id)
  add('jobs', 1)
  enqueue(th, id, a.weight, priority)
  if a.session ~= '' then
    call('ZADD', jobs_of(a.session), add('seq', 1), id)
    session_used(a.session)
  end
  local place, wait = place_and_wait(forecast(), th, call('ZRANK', line_of(th), id))
  tell_place(id, place, math.floor(wait * 1000), now)
  ring('bell', '')
  bound(id)
  return {'created', id}
end

function OPS.summary()
  local id = ARGV[4]
  if not known(id) then return {} end
  local found = view(id)
  local th, hook = unpack(call('HMGET', job_key(id), 'tenant_hash', 'hook'))
  local ahead = call('ZRANK', line_of(th), id)
  local waits = {false, false}
  if ahead then
    local place, wait = place_and_wait(forecast(), th, ahead)
    waits = {place, exact(wait)}
  end
  return {found, waits, hook}
end

-- A page of a tenant's jobs, newest first, and where the next begins.
function OPS.jobs()
  local th, before, state, limit = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
  local views, looked = {}, 0
  expire(1000)
  while #views < limit and looked < 1000 do
    local ids = call('ZREVRANGEBYSCORE', P .. 'of:' .. th, before, '-inf', 'WITHSCORES',
      'LIMIT', 0, 100)
    if #ids == 0 then return {views, ''} end
    for i = 1, #ids, 2 do
      looked = looked + 1
      before = '(' .. ids[i + 1]
      if (state == '' or call('HGET', job_key(ids[i]), 'state') == state) and #views < limit then
        views[#views + 1] = view(ids[i])
      end
    end
  end
  return {views, before}
end

function OPS.cancel()
  local id, token = ARGV[4], ARGV[5]
  if not known(id) then return 'unknown' end
  local f = call('HMGET', job_key(id), 'result_kind', 'token', 'cancelled_by')
  if f[1] and f[3] == token then HEARD[1] = view(id) end -- the first answer was lost
  if f[1] then return f[3] == token and 'cancelled' or 'done' end
  if not f[2] then call('HSET', job_key(id), 'cancelled_by', token) end
  cancel_job(id)
  if f[2] then return 'requested' end
  if ARGV[6] == '1' then tell_places() end
  return 'cancelled'
end

function OPS.purge()
  local id = ARGV[4]
  if not known(id) then return ARGV[5] == '1' and 'purged' or 'unknown' end
  if not call('HGET', job_key(id), 'result_kind') then return 'not_over' end
  forget(id)
  return 'purged'
end

function OPS.files()
  if not known(ARGV[4]) then return {'unknown'} end
  return {'ok', call('HGET', job_key(ARGV[4]), 'files')}
end

local INBOX, ITEM = 1024 * 1024, 128

function OPS.send()
  local id, kind, data, number, at = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
  local token = ARGV[9]
  if not known(id) then return {'unknown'} end
  local key = job_key(id)
  local f = call('HMGET', key, 'result_kind', 'interactive', 'terminal', 'sent', 'received',
    'input_ended', 'inbox', 'token', 'node', 'tenant_hash', 'sends')
  local received, ended = num(f[5]), f[6]
  if string.find(f[11] or '', token, 1, true) then return {'accepted'} end
  if number ~= '' and tonumber(number) <= num(f[4]) then return {'accepted'} end
  if at ~= '' then
    at = tonumber(at)
    local ends_before = kind == 'eof' and at < received and not ended
    if at > received or ends_before then
      return {'conflict', ends_before and 'ends' or 'begins', at, received}
    end
    if kind == 'eof' and ended then return {'accepted'} end
    if kind == 'input' then
      data = data:sub(received - at + 1)
      if data == '' then return {'accepted'} end
    end
  end
  if f[1] or (kind == 'resize' and f[3] == '0')
    or ((kind == 'input' or kind == 'eof') and f[2] == '0') then
    return {'closed'}
  end
  local size = (kind == 'input' and ITEM + #data) or (kind == 'signal' and ITEM) or 0
  if not f[8] and no_room_for(f[10], size) then return full(f[10]) end
  if kind == 'resize' then
    call('HSET', key, 'resize', data)
    call('HINCRBY', key, 'resizes', 1)
  elseif kind == 'measure' then
    call('HINCRBY', key, 'measures', 1)
  else
    if ended and kind ~= 'signal' then return {'closed'} end
    if size > INBOX then return {'too_large', size - ITEM, INBOX - ITEM} end
    if num(f[7]) + size > INBOX then return {'busy'} end
    call('HINCRBY', key, 'inbox', size)
    if kind == 'signal' then
      call('RPUSH', P .. 'signals:' .. id, data)
    else
      call('RPUSH', P .. 'in:' .. id, (kind == 'eof' and 'E' or 'D') .. data)
      if kind == 'eof' then
        call('HSET', key, 'input_ended', 1)
      else
        call('HSET', key, 'received', received + #data)
      end
    end
  end
  if number ~= '' then call('HSET', key, 'sent', number) end
  call('HSET', key, 'sends', string.sub(token .. (f[11] or ''), 1, 8 * #token))
  if not f[8] then
    call('HINCRBY', key, 'weight', size)
    weigh(f[10], size)
  else
    ring('node:' .. f[9], 'job ' .. id)
  end
  return {'accepted'}
end

-- The events after a number, some at a time.
function OPS.read()
  local id, after = ARGV[4], tonumber(ARGV[5])
  if not known(id) then return {'unknown'} end
  local f = call('HMGET', job_key(id), 'n', 'first', 'result_kind')
  local last, first = num(f[1]), num(f[2])
  if ARGV[6] == '1' then
    -- A new view: the newest event shows whether the job is over.
    after = after > last and 0 or math.min(after, last - 1)
  end
  local start = math.max(after, first - 1)
  local events, size = {}, 0
  while start + #events / 2 < last and size < 256 * 1024 do
    local at = start + #events / 2
    local entries = call('XRANGE', log_key(id), '1-' .. (at + 1), '1-' .. last, 'COUNT', 64)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      events[#events + 1] = entry[2][1]
      events[#events + 1] = entry[2][2]
      size = size + #entry[2][2]
    end
  end
  return {'ok', last, after, start, f[3] and 1 or 0, events}
end

function OPS.exists() return known(ARGV[4]) and 1 or 0 end

function OPS.secret()
  call('HSETNX', P .. 'secrets', ARGV[4], ARGV[5])
  return call('HGET', P .. 'secrets', ARGV[4])
end

function OPS.capabilities()
  local found = {}
  for _, worker in ipairs(call('ZRANGE', P .. 'workers', 0, -1, 'WITHSCORES')) do
    found[#found + 1] = worker
  end
  local living = {}
  for i = 1, #found, 2 do
    if tonumber(found[i + 1]) > now then
      living[#living + 1] = call('HGET', P .. 'capabilities', found[i])
    else
      call('ZREM', P .. 'workers', found[i])
      call('HDEL', P .. 'capabilities', found[i])
      call('HDEL', P .. 'places', found[i])
      call('HDEL', P .. 'claims', found[i])
    end
  end
  return living
end

function OPS.stats()
  expire(1000)
  sessions_expire()
  local oldest = num(call('ZRANGE', WAITS, 0, 0, 'WITHSCORES')[2] or now)
  local f = call('HMGET', SUM, 'waiting', 'jobs', 'log', 'waiting_bytes', 'records', 'blob_bytes',
    'hooks')
  return {
    num(f[1]), call('ZCARD', RUNNING), exact(now - oldest), num(f[2]), num(f[3]), num(f[4]),
    num(f[5]), exact(wait_s(forecast(), num(f[1]) + 1)), num(f[6]), call('ZCARD', SESSIONS),
    num(f[7]),
  }
end

-- What a tenant has in the queue, and the first jobs of it.
function OPS.own_queue()
  local th, most = ARGV[4], tonumber(ARGV[5])
  local known, jobs = forecast(), {}
  for n, id in ipairs(call('ZRANGE', line_of(th), 0, most - 1)) do
    local place, wait = place_and_wait(known, th, n - 1)
    jobs[n] = {id, place, exact(wait)}
  end
  local _, wait = place_and_wait(known, th, ahead_of_new(th))
  return {
    num(call('HGET', RUNNING_OF, th)), call('ZCARD', line_of(th)), most_running(th) or false,
    exact(wait), jobs,
  }
end

-- Whether a node is left, of all or of those that still take jobs.
local function any_of(nodes)
  return #call('ZRANGEBYSCORE', P .. nodes, '(' .. exact(now), '+inf', 'LIMIT', 0, 1) > 0
end

-- End the waiting jobs, some at a time, if no other node takes them; return how many.
function OPS.drain()
  local node, kind, data = ARGV[4], ARGV[5], ARGV[6]
  call('ZREM', P .. 'takers', node)
  if any_of('takers') then return 0 end
  local ended = 0
  for _, id in ipairs(in_order(100)) do
    end_job(id, {kind, data})
    ended = ended + 1
  end
  return ended
end

-- End the sessions of a node that stops, or all if no other is left.
function OPS.close()
  local node = ARGV[4]
  call('ZREM', P .. 'nodes', node)
  local last = not any_of('nodes')
  for _, id in ipairs(call('ZRANGE', SESSIONS, 0, -1)) do
    if last or call('HGET', session_key(id), 'node') == node then
      end_session(id, 'shutting_down')
    end
  end
end

-- Return what tells this state of the server from one that began anew, and whether there is more to end.
function OPS.alive()
  call('ZADD', P .. 'nodes', exact(now + C.lease_s), ARGV[4])
  if ARGV[6] == '0' then call('ZADD', P .. 'takers', exact(now + C.lease_s), ARGV[4]) end
  call('ZREMRANGEBYSCORE', P .. 'nodes', '-inf', exact(now))
  call('ZREMRANGEBYSCORE', P .. 'takers', '-inf', exact(now))
  ring('node:' .. ARGV[4], 'alive ' .. ARGV[5])
  call('HSETNX', SUM, 'epoch', ARGV[4] .. '.' .. ARGV[5])
  return {call('HGET', SUM, 'epoch'), call('EXISTS', P .. 'endings')}
end
