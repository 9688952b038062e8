-- Sessions: their records, their jobs, and what is asked of the workers that have them.
local SESSIONS, SESSIONS_OF, ENDED, ENDED_FACTS, ENDED_COUNTS
local ENDINGS
local MOST_ASKED, JOBS_AT_ONCE = 16, 100
local cancel_job -- defined below, with the jobs

on_root(function()
  SESSIONS, SESSIONS_OF = P .. 'sessions', P .. 'sessions-of'
  ENDED, ENDED_FACTS, ENDED_COUNTS = P .. 'ended-sessions', P .. 'ended-facts', P .. 'ended-counts'
  ENDINGS = P .. 'endings'
end)

local function session_key(id) return P .. 'session:' .. id end
local function asked_key(id) return P .. 'asked:' .. id end
local function askers_key(id) return P .. 'askers:' .. id end
local function answers_key(id) return P .. 'answers:' .. id end
local function abandoned_key(id) return P .. 'abandoned:' .. id end
local function jobs_of(id) return P .. 'session-jobs:' .. id end
local function asks_key(id) return P .. 'asks:' .. id end

local function session_used(id) call('HSET', session_key(id), 'used', exact(now)) end

-- Those of one tenant, by its hash.
local function ended_of(th) return P .. 'ended-of:' .. th end

local function end_forgotten(id, th)
  call('ZREM', ENDED, id)
  call('HDEL', ENDED_FACTS, id)
  if not th then return end
  call('ZREM', ended_of(th), id)
  if tonumber(call('ZINCRBY', ENDED_COUNTS, -1, th)) < 1 then call('ZREM', ENDED_COUNTS, th) end
end

-- Forget the ends that are too many, of the tenant that has the most; and those too long ago.
local function ends_forgotten()
  local more = call('ZCARD', ENDED) - C.ended_sessions
  while more > 0 do
    local th = call('ZREVRANGE', ENDED_COUNTS, 0, 0)[1]
    if not th then break end -- an older version has written them
    end_forgotten(call('ZRANGE', ended_of(th), 0, 0)[1], th)
    more = more - 1
  end
  while true do
    local id = call('ZRANGE', ENDED, 0, 0)[1]
    if not id then return end
    local facts = call('HGET', ENDED_FACTS, id)
    facts = facts and cmsgpack.unpack(facts) or {}
    if more <= 0 and (facts[2] or 0) + C.ended_s > now then return end
    end_forgotten(id, facts[5])
    more = more - 1
  end
end

-- Cancel the waiting jobs of sessions that have ended, some at a time; whether there are more.
local function endings_go_on()
  local left = JOBS_AT_ONCE
  while left > 0 do
    local id = call('ZRANGE', ENDINGS, 0, 0)[1]
    if not id then return false end
    local jobs = call('ZRANGE', jobs_of(id), 0, left - 1)
    for _, job in ipairs(jobs) do
      call('ZREM', jobs_of(id), job)
      cancel_job(job)
    end
    left = left - #jobs
    if call('EXISTS', jobs_of(id)) == 0 then call('ZREM', ENDINGS, id) end
  end
  return call('EXISTS', ENDINGS) == 1
end

function OPS.endings() return endings_go_on() and 1 or 0 end

local function end_session(id, reason)
  local f = call('HMGET', session_key(id), 'tenant_hash', 'created', 'blob', 'running', 'tenant')
  local askers = call('HVALS', askers_key(id))
  call('ZREM', SESSIONS, id)
  count(SESSIONS_OF, f[1], -1)
  local number = add('session_ends', 1)
  call('ZADD', ENDED, number, id)
  call('HSET', ENDED_FACTS, id, cmsgpack.pack({reason, now, tonumber(f[2]), f[5], f[1]}))
  call('ZADD', ended_of(f[1]), number, id)
  call('ZINCRBY', ENDED_COUNTS, 1, f[1])
  call('UNLINK', session_key(id), asked_key(id), askers_key(id), answers_key(id),
    abandoned_key(id), asks_key(id))
  if f[3] and f[3] ~= '' then blob_released(f[3]) end
  for _, node in ipairs(askers) do ring('node:' .. node, 'session ' .. id) end
  if f[4] then cancel_job(f[4]) end
  call('ZADD', ENDINGS, exact(now), id)
  endings_go_on()
  ring('sessions', '')
  ends_forgotten()
end

-- How many answers are waited for; who has asked may be no more, and never fetch one.
local function unanswered(id) return call('HLEN', asked_key(id)) - call('HLEN', answers_key(id)) end

local function session_in_use(id, running)
  return running or unanswered(id) > 0 or call('ZCARD', jobs_of(id)) > 0
end

-- End what is past its time, or has lost its worker.
local function sessions_expire()
  for _, id in ipairs(call('ZRANGE', SESSIONS, 0, -1)) do
    local f = call('HMGET', session_key(id), 'worker', 'until', 'begun', 'total', 'used', 'idle',
      'running')
    if f[1] and C.may_reap and num(f[2]) <= now then
      end_session(id, 'worker_lost')
    elseif num(f[3]) + num(f[4]) <= now then
      end_session(id, 'total_time')
    elseif num(f[5]) + num(f[6]) <= now and not session_in_use(id, f[7]) then
      end_session(id, 'idle')
    end
  end
  ends_forgotten()
end

-- Nil for a session that has not ended.
local function session_refusal(id)
  sessions_expire()
  if call('EXISTS', session_key(id)) == 1 then return nil end
  local facts = call('HGET', ENDED_FACTS, id)
  if facts then return {'ended', cmsgpack.unpack(facts)[1]} end
  return {'no_session'}
end

local function session_takes(id, worker)
  local f = call('HMGET', session_key(id), 'worker', 'open', 'running')
  return f[1] == worker and f[2] and not f[3]
end

local function session_job_ended(id, job)
  if call('EXISTS', session_key(id)) == 0 then return end
  session_used(id)
  call('ZREM', jobs_of(id), job)
  if call('HGET', session_key(id), 'running') == job then
    call('HDEL', session_key(id), 'running')
    if call('ZCARD', jobs_of(id)) > 0 then ring('bell', '') end
  end
end

function OPS.session_open()
  local a, spec, tenant = cmsgpack.unpack(ARGV[4]), ARGV[5], ARGV[6]
  sessions_expire()
  if call('EXISTS', session_key(a.id)) == 1 or call('HEXISTS', ENDED_FACTS, a.id) == 1 then
    return {'ok'}
  end
  if a.draining then return {'draining'} end
  local own, all = num(call('HGET', SESSIONS_OF, a.tenant_hash)), call('ZCARD', SESSIONS)
  if C.sessions_of_one and own >= C.sessions_of_one then return {'share', own} end
  if all >= C.sessions then return {'full', all} end
  if a.blob ~= '' and not blob_held(a.blob) then return {'no_project'} end
  call('HSET', session_key(a.id), 'spec', spec, 'tenant_hash', a.tenant_hash, 'tenant', tenant,
    'created', exact(now), 'begun', exact(now), 'used', exact(now), 'idle', exact(a.idle_s),
    'total', exact(a.total_s), 'backend', a.backend, 'environment', a.environment,
    'languages', a.languages,
    'blob', a.blob, 'number', 0, 'told', 0)
  call('ZADD', SESSIONS, add('session_seq', 1), a.id)
  count(SESSIONS_OF, a.tenant_hash, 1)
  ring('sessions', '')
  return {'ok'}
end

local function session_view(id)
  local f = call('HMGET', session_key(id), 'spec', 'open', 'running', 'created', 'begun', 'total',
    'used', 'idle')
  local expires = num(f[5]) + num(f[6])
  if not session_in_use(id, f[3]) then expires = math.min(expires, num(f[7]) + num(f[8])) end
  local state = f[3] and 'running' or f[2] and 'idle' or 'opening'
  return {f[1], state, f[4], exact(expires)}
end

function OPS.session_find()
  local id = ARGV[4]
  sessions_expire()
  if call('EXISTS', session_key(id)) == 1 then return {'living', unpack(session_view(id))} end
  local facts = call('HGET', ENDED_FACTS, id)
  if not facts then return {'no_session'} end
  facts = cmsgpack.unpack(facts)
  return {'ended', facts[1], exact(facts[3]), facts[4] or ''}
end

function OPS.sessions_of()
  local found = {}
  sessions_expire()
  for _, id in ipairs(call('ZREVRANGE', SESSIONS, 0, -1)) do
    if call('HGET', session_key(id), 'tenant_hash') == ARGV[4] then
      found[#found + 1] = session_view(id)
    end
  end
  return found
end

function OPS.session_ask()
  local id, request, node, token = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
  local refused = session_refusal(id)
  if refused then return refused end
  local known = call('HGET', asks_key(id), token)
  if known then return {'ok', known} end
  if unanswered(id) + call('SCARD', abandoned_key(id)) >= MOST_ASKED then
    return {'full'}
  end
  local number = call('HINCRBY', session_key(id), 'number', 1)
  call('HSET', asked_key(id), number, request)
  call('HSET', askers_key(id), number, node)
  call('HSET', asks_key(id), token, number)
  session_used(id)
  ring('sessions', '')
  return {'ok', number}
end

function OPS.session_answer_of()
  local refused = session_refusal(ARGV[4])
  if refused then return refused end
  local answer = call('HGET', answers_key(ARGV[4]), ARGV[5])
  return answer and {'answer', answer} or {'waiting'}
end

-- Its caller waits no more; what has come for a caller that did not get it is returned.
function OPS.session_leave()
  local id, number, token, got = ARGV[4], ARGV[5], ARGV[6], ARGV[7] == '1'
  if call('EXISTS', session_key(id)) == 0 then return false end
  local answer = call('HGET', answers_key(id), number)
  local waited = call('HDEL', asked_key(id), number) == 1
  call('HDEL', askers_key(id), number)
  call('HDEL', answers_key(id), number)
  call('HDEL', asks_key(id), token)
  session_used(id)
  if got then return false end
  if waited and not answer
    and tonumber(number) <= num(call('HGET', session_key(id), 'told')) then
    call('SADD', abandoned_key(id), number)
  end
  return answer
end

function OPS.session_end()
  sessions_expire()
  if call('EXISTS', session_key(ARGV[4])) == 0 then return 0 end
  end_session(ARGV[4], 'deleted')
  return 1
end

-- Whether a worker can open a session with this backend, environment and languages.
local function can_open(accepts, backend, environment, languages)
  if not accepts.backends then return true end
  if not accepts.backends[backend] then return false end
  if environment ~= '' and not accepts.environments[environment] then return false end
  for name in string.gmatch(languages, '%S+') do
    if not accepts.languages[name] then return false end
  end
  return true
end

-- For the worker: what it has are pairs of session and number after ARGV[7].
function OPS.session_news()
  local worker, node, free = ARGV[4], ARGV[5], tonumber(ARGV[6])
  local accepts = cmsgpack.unpack(ARGV[7])
  local held, opens, asked, closed = {}, {}, {}, {}
  for i = 8, #ARGV, 2 do held[ARGV[i]] = tonumber(ARGV[i + 1]) end
  local renewed = exact(now + C.lease_s)
  for _, id in ipairs(call('ZRANGE', SESSIONS, 0, -1)) do
    if call('HGET', session_key(id), 'worker') == worker then
      call('HSET', session_key(id), 'until', renewed)
    end
  end
  sessions_expire()
  for i = 8, #ARGV, 2 do
    if call('HGET', session_key(ARGV[i]), 'worker') ~= worker then
      closed[#closed + 1] = ARGV[i]
    end
  end
  for _, id in ipairs(call('ZRANGE', SESSIONS, 0, -1)) do
    local f = call('HMGET', session_key(id), 'worker', 'backend', 'environment', 'spec', 'told',
      'languages')
    if not f[1] and #opens < free and can_open(accepts, f[2], f[3], f[6]) then
      f[1] = worker
      call('HSET', session_key(id), 'worker', worker, 'node', node, 'until', renewed)
    end
    if f[1] == worker and not held[id] then
      opens[#opens + 1] = f[4]
    elseif f[1] == worker then
      local told = num(f[5])
      -- A later one has not reached it, and is told no more.
      for _, number in ipairs(call('SMEMBERS', abandoned_key(id))) do
        if tonumber(number) > held[id] then call('SREM', abandoned_key(id), number) end
      end
      local numbers = {}
      for _, number in ipairs(call('HKEYS', asked_key(id))) do
        numbers[#numbers + 1] = tonumber(number)
      end
      table.sort(numbers)
      for _, number in ipairs(numbers) do
        told = math.max(told, number)
        if number > held[id] and call('HEXISTS', answers_key(id), number) == 0 then
          asked[#asked + 1] = {id, number, call('HGET', asked_key(id), number)}
        end
      end
      call('HSET', session_key(id), 'told', told)
    end
  end
  return {opens, asked, closed}
end

function OPS.session_answer()
  local worker, id, number, answer, opened, blob = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
  local f = call('HMGET', session_key(id), 'worker', 'open', 'spec')
  local abandoned = f[1] == worker and call('SREM', abandoned_key(id), number) == 1
  if blob ~= '' and (not f[3] or abandoned) then blob_dropped(blob) end
  if f[1] ~= worker then return end
  local request = call('HGET', asked_key(id), number)
  if not request then return end
  if opened == '1' and request:sub(1, 1) == 'O' and not f[2] then
    call('HSET', session_key(id), 'open', 1)
    ring('bell', '')
  end
  call('HSETNX', answers_key(id), number, answer)
  ring('node:' .. call('HGET', askers_key(id), number), 'session ' .. id)
end

function OPS.session_over()
  if call('HGET', session_key(ARGV[5]), 'worker') == ARGV[4] then
    end_session(ARGV[5], ARGV[6])
  end
end
